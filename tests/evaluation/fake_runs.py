"""A model and an engine that are not there, their data, and records as a sweep writes them."""

from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import attrs
import torch

from skipkv.errors import InputError, PartError
from skipkv.evaluation import DataSet, Defaults, Problem, Record
from skipkv.runtime import Completion, Stats


class CharTokenizer:
    """A token per character."""

    chat_template: str | None = None

    def __call__(self, text: str, **options: Any) -> dict[str, list[int]]:
        return {"input_ids": [ord(c) for c in text]}

    def decode(self, tokens: list[int], **options: Any) -> str:
        return "".join(map(chr, tokens))


def fake_model(seed: int = 0) -> torch.nn.Module:
    torch.manual_seed(seed)
    model = torch.nn.Linear(2, 2)
    model.config = SimpleNamespace(num_hidden_layers=1, num_key_value_heads=2, model_type="fake")
    model.dtype, model.device = torch.float32, torch.device("cpu")
    return model


class FakeEngine:
    """Answers "3+4" with 7 under the full cache, and wrongly under a budget below 50 tokens."""

    decoded: list[dict[str, Any]]
    longest: int = 100  # characters of a prompt
    breaks_on: str = "0+0"  # the question on which a policy breaks
    memory: int = 1000  # sequences side by side; the error comes with the second one that is done
    out_of_memory: Exception = torch.OutOfMemoryError("40 GiB")

    def __init__(self, model: Any, tokenizer: Any, policy: Any, *, batch_size: int) -> None:
        self._policy, self._batch_size = policy, batch_size

    def generate(
        self, prompts: list[Any], *, seeds: list[int], **options: Any
    ) -> Iterator[Completion]:
        if any(len(prompt) > self.longest for prompt in prompts):
            raise InputError("Prompt 0 is too long.")
        return self._completions(prompts, seeds, options)

    def _completions(
        self, prompts: list[Any], seeds: list[int], options: dict[str, Any]
    ) -> Iterator[Completion]:
        budget = self._policy.budget
        tokens = None if budget is None else budget.tokens
        for number, (prompt, seed) in enumerate(list(zip(prompts, seeds, strict=True))[::-1]):
            index = len(prompts) - 1 - number
            if number == 1 and self._batch_size > self.memory:
                raise self.out_of_memory
            question = "".join(map(chr, prompt))
            type(self).decoded.append(
                {"question": question, "seed": seed, "budget": tokens, **options}
            )
            right = eval(question)
            answer = right if tokens is None or tokens >= 50 else right + 1
            text = f"<think>so.\n\nWait, again.\n\n</think>\\boxed{{{answer}}}"
            broken = (
                PartError("Recency returned NaN.")
                if question == self.breaks_on and tokens
                else None
            )
            yield Completion(
                index=index,
                sample=0,
                prompt_tokens=len(prompt),
                tokens=tuple(map(ord, text)),
                text=text,
                stop_reason="error" if broken else "eos",
                error=broken,
                stats=Stats(
                    new_tokens=len(text), events=1, evicted=4, mean_entries=20.0, peak_entries=60,
                    peak_kv_bytes=1000, seconds=0.5,
                ),
                trace=(),
            )  # fmt: skip


@attrs.frozen
class Fakes:
    """What `Sweep.run` is given, what decodes it, and what came of it."""

    model: torch.nn.Module
    tokenizer: CharTokenizer
    engine: type[FakeEngine]
    decoded: list[dict[str, Any]]


def sums(count: int = 4, name: str = "sums", **defaults: Any) -> DataSet:
    """Sums of digits: "1+2", "2+3", ..."""
    problems = [
        Problem(id=str(i), question=f"{i}+{i + 1}", answer=str(2 * i + 1))
        for i in range(1, count + 1)
    ]
    settings = {"instruction": "", "interval": 16, "max_new_tokens": 30, "batch_size": 2}
    return DataSet(name=name, problems=problems, defaults=Defaults(**{**settings, **defaults}))


def record(**changes: object) -> Record:
    fields = {
        "data": "sums", "policy": "rkv", "asked": "96", "budget": 96, "problem": "0", "sample": 0,
        "seed": 1, "gold": "5", "answer": "5", "correct": True, "prompt_tokens": 7,
        "new_tokens": 20, "stop_reason": "eos", "execution": 3, "reflection": 1, "transition": 2,
        "events": 2, "evicted": 40, "mean_entries": 20.5, "peak_entries": 30,
        "peak_kv_bytes": 1000, "seconds": 1.0, "wall_seconds": 0.5, "batch_size": 2,
        "text": "<think>\u2028x\n</think>",
    }  # fmt: skip
    return Record(**{**fields, **changes})
