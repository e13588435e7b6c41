"""The training report of a model: loss, time, and accuracy with and without eviction."""

import json
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import attrs
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from skipkv import presets
from skipkv.evictors import TopK
from skipkv.policy import Budget, Policy
from skipkv.runtime import Engine, Sampling
from skipkv.scorers import Random
from skipkv.tiny.problem import Problem


@attrs.frozen(kw_only=True)
class Exam:
    """How an embedded reasoner is examined.

    Args:
        max_new_tokens: the most tokens decoded; enough for nearly all traces.
        interval: decode steps between two compression events.
        sampling: how tokens are chosen.
    """

    max_new_tokens: int
    interval: int
    sampling: Sampling


TINY = Exam(max_new_tokens=640, interval=16, sampling=Sampling())
RAMBLER = Exam(
    max_new_tokens=1408, interval=32, sampling=Sampling(temperature=0.6, top_p=0.95, seed=0)
)


def accuracy(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    policy: Policy,
    asked: Sequence[Problem],
    exam: Exam = TINY,
) -> tuple[float, float]:
    """Share of problems solved, and mean tokens of prompt and trace."""
    engine = Engine(model, tokenizer, policy, batch_size=64)
    chats = [[{"role": "user", "content": problem.question}] for problem in asked]
    right = tokens = 0
    for completion in engine.generate(
        chats, max_new_tokens=exam.max_new_tokens, sampling=exam.sampling, ordered=False
    ):
        boxed = re.findall(r"\\boxed\{(\d+)\}", completion.text)
        right += boxed[-1:] == [asked[completion.index].answer]
        tokens += completion.prompt_tokens + len(completion.tokens)
    return right / len(asked), tokens / len(asked)


def blind(quarter: int, interval: int) -> dict[str, Policy]:
    """Two policies that look at nothing, under a budget of `quarter` entries."""
    budget = Budget(tokens=quarter, interval=interval)
    return {
        f"random, {quarter} entries": Policy(
            budget=budget, scorer=Random(seed=0, fresh=False), evictor=TopK()
        ),
        f"sinks and recent, {quarter} entries": presets.streaming_llm(quarter, interval=interval),
    }


def report(
    folder: Path,
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    asked: Sequence[Problem],
    exam: Exam = TINY,
    *,
    command: str = "python -m skipkv.tiny.training",
) -> str:
    """Measure a trained model; the report in Markdown, also written to `folder`/training.md.

    The report compares the full cache with two simple policies. If these cost little accuracy at a
    quarter of the trace, the model cannot tell eviction methods apart there.

    Args:
        folder: where the training's log is.
        model: the trained model.
        tokenizer: its tokenizer.
        asked: problems that it was not trained on.
        exam: how it is examined.
        command: what trained it.
    """
    full, length = accuracy(model, tokenizer, presets.full(), asked, exam)
    measured = {"full cache": full} | {
        name: accuracy(model, tokenizer, policy, asked, exam)[0]
        for name, policy in blind(round(length / 4), exam.interval).items()
    }
    lines = [json.loads(line) for line in (folder / "training.jsonl").read_text().splitlines()]
    text = "\n".join(_markdown(lines, measured, len(asked), length, exam, command))
    (folder / "training.md").write_text(text)
    return text


def _markdown(
    log: list[dict[str, Any]],
    measured: dict[str, float],
    count: int,
    length: float,
    exam: Exam,
    command: str,
) -> Iterator[str]:
    how = "Greedy decoding"
    if not exam.sampling.greedy:
        how = f"Decoding (temperature {exam.sampling.temperature:g}, top-p {exam.sampling.top_p:g})"
    parameters = f"{log[-1]['step']} steps in {log[-1]['seconds'] / 60:.0f} minutes"
    yield "# Training report\n"
    yield f"Written by `{command}`. {parameters}.\n"
    yield f"{how} of {count} held-out problems; a trace with its prompt has "
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
