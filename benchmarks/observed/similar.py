"""Observation 4: similar sentences in right and in wrong traces."""

from typing import Any

import torch

from observed import groups
from observed.setting import SIDE_BY_SIDE, THRESHOLD, Setting
from skipkv import SentenceTable
from skipkv.evaluation import Record
from skipkv.runtime.parts.sentences import SentenceTracker
from skipkv.runtime.text.token_text import TokenText
from skipkv.segmenters import Newline

COLUMNS = {
    "sentences": ("sentences", False),
    "pairs": (f"pairs above {THRESHOLD}", False),
    "repeated": ("sentences repeated later", True),
}


def measure(setting: Setting) -> dict[str, Any]:
    """Sentences and similar pairs of each trace."""
    return groups.measure(setting, _measured)


def _measured(setting: Setting, records: list[Record]) -> list[groups.Values]:
    model, tokenizer = setting.model
    text = TokenText(tokenizer)
    end_think = tokenizer.convert_tokens_to_ids("</think>")
    found: list[groups.Values] = []
    for start in range(0, len(records), SIDE_BY_SIDE):
        some = records[start : start + SIDE_BY_SIDE]
        prompts = [list(setting.prompts[int(record.problem)]) for record in some]
        traces = [tokenizer(record.text, add_special_tokens=False)["input_ids"] for record in some]
        traces = [t[: t.index(end_think)] if end_think in t else t for t in traces]
        rows = [[*prompt, *trace] for prompt, trace in zip(prompts, traces, strict=True)]
        hidden = _hidden(model, rows)
        for row, prompt, states in zip(rows, prompts, hidden, strict=True):
            tracker = SentenceTracker(Newline(), states.shape[1], "cpu")
            own = row[len(prompt) :]
            tracker.feed(own, text.pieces(own), states[len(prompt) : len(row)])
            found.append(counted(tracker.table))
    return found


@torch.inference_mode()
def _hidden(model: Any, rows: list[list[int]]) -> torch.Tensor:
    """Final-norm hidden states of these traces as the full cache sees them, padded on the right."""
    longest = max(map(len, rows))
    ids = torch.tensor([row + [0] * (longest - len(row)) for row in rows])
    # attention is causal: tokens do not see the padding on their right
    return model.base_model(input_ids=ids, use_cache=False).last_hidden_state


def counted(table: SentenceTable, threshold: float = THRESHOLD) -> groups.Values:
    """Number of sentences, of pairs of similar ones, and the share that a later one repeats."""
    similar = (table.embeddings @ table.embeddings.T > threshold).triu(diagonal=1)
    repeated = similar.any(dim=1)
    return {
        "sentences": float(len(table)),
        "pairs": float(similar.sum()),
        "repeated": float(repeated.double().mean()) if len(table) else 0.0,
    }


def show(found: dict[str, Any]) -> str:
    """The tables."""
    return groups.show(found, COLUMNS)


def draw(found: dict[str, Any], axes: Any) -> None:
    """Similar pairs by group."""
    groups.draw(found, axes, "pairs", f"pairs of sentences above {THRESHOLD} per trace")
