"""The training report of a model: loss, time, and accuracy with and without eviction."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from skipkv import presets
from skipkv.evictors import TopK
from skipkv.policy import Budget, Policy
from skipkv.runtime import Engine, Sampling
from skipkv.scorers import Random
from skipkv.tiny.problem import Problem, problems

MAX_NEW_TOKENS = 640
"""The most tokens decoded: enough for the longest traces, and for traces that lose their way."""
INTERVAL = 16
"""Decode steps between compression events that suit traces of a few hundred tokens."""


def accuracy(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    policy: Policy,
    asked: list[Problem],
) -> tuple[float, float]:
    """Share of problems solved by greedy decoding, and mean tokens of prompt and trace."""
    engine = Engine(model, tokenizer, policy, batch_size=64)
    chats = [[{"role": "user", "content": problem.question}] for problem in asked]
    right = tokens = 0
    for completion in engine.generate(
        chats, max_new_tokens=MAX_NEW_TOKENS, sampling=Sampling(), ordered=False
    ):
        boxed = re.findall(r"\\boxed\{(\d+)\}", completion.text)
        right += boxed[-1:] == [asked[completion.index].answer]
        tokens += completion.prompt_tokens + len(completion.tokens)
    return right / len(asked), tokens / len(asked)


def report(
    folder: Path, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, *, count: int = 500
) -> str:
    """Measure a trained model; the report in Markdown, also written to `folder`/training.md.

    The report compares the full cache with two simple policies. If these cost little accuracy at a
    quarter of the trace, the model cannot tell eviction methods apart.
    """
    asked = problems(count)
    full, length = accuracy(model, tokenizer, presets.full(), asked)
    quarter = round(length / 4)
    blind = {
        f"random, {quarter} entries": Policy(
            budget=Budget(tokens=quarter, interval=INTERVAL), scorer=Random(seed=0), evictor=TopK()
        ),
        f"sinks and recent, {quarter} entries": presets.streaming_llm(quarter, interval=INTERVAL),
    }
    measured = {"full cache": full} | {
        name: accuracy(model, tokenizer, policy, asked)[0] for name, policy in blind.items()
    }
    lines = [json.loads(line) for line in (folder / "training.jsonl").read_text().splitlines()]
    text = "\n".join(_markdown(lines, measured, count, length))
    (folder / "training.md").write_text(text)
    return text


def _markdown(
    log: list[dict[str, Any]], measured: dict[str, float], count: int, length: float
) -> Iterator[str]:
    parameters = f"{log[-1]['step']} steps in {log[-1]['seconds'] / 60:.0f} minutes"
    yield "# Training report\n"
    yield f"Written by `python -m skipkv.tiny.training`. {parameters}.\n"
    yield f"Greedy decoding of {count} held-out problems; a trace with its prompt has "
    yield f"{length:.0f} tokens on average, and a quarter of that is the budget below.\n"
    yield "| cache | accuracy |"
    yield "|---|---|"
    for name, share in measured.items():
        yield f"| {name} | {share:.1%} |"
    yield "\nFor the batch at each step: its loss, the share predicted right of all words that are"
    yield "not random, and the same of the values looked up.\n"
    yield "| step | minutes | loss | words | values |"
    yield "|---|---|---|---|---|"
    every = max(1, len(log) // 20)
    for line in [*log[every - 1 : -1 : every], log[-1]]:
        yield (
            f"| {line['step']} | {line['seconds'] / 60:.1f} | {line['loss']:.3f} | "
            f"{line['words_right']:.1%} | {line['lookups_right']:.1%} |"
        )
    yield ""
