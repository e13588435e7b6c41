"""Observation 4: similar sentences in right and in wrong traces."""

from collections.abc import Sequence
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
    prompts = [setting.prompts[int(record.problem)] for record in records]
    return [counted(one) for one in tables_of(*setting.model, prompts, [r.text for r in records])]


def tables_of(
    model: Any, tokenizer: Any, prompts: Sequence[Sequence[int]], texts: Sequence[str | None]
) -> list[SentenceTable]:
    """The sentences of thinking in traces, as the full cache sees them.

    Args:
        model: an embedded model.
        tokenizer: its tokenizer.
        prompts: token ids.
        texts: what was decoded for each.
    """
    text = TokenText(tokenizer)
    end_think = tokenizer.convert_tokens_to_ids("</think>")
    found: list[SentenceTable] = []
    for start in range(0, len(prompts), SIDE_BY_SIDE):
        some = slice(start, start + SIDE_BY_SIDE)
        traces = [tokenizer(t, add_special_tokens=False)["input_ids"] for t in texts[some]]
        traces = [t[: t.index(end_think)] if end_think in t else t for t in traces]
        rows = [[*prompt, *trace] for prompt, trace in zip(prompts[some], traces, strict=True)]
        hidden = _hidden(model, rows)
        for row, trace, states in zip(rows, traces, hidden, strict=True):
            tracker = SentenceTracker(Newline(), states.shape[1], "cpu")
            tracker.feed(trace, text.pieces(trace), states[len(row) - len(trace) : len(row)])
            found.append(tracker.table)
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
