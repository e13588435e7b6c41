"""The run of the embedded model that several figures show, and parts that write down what they see.

A recording part passes everything on to the part it wraps, so the run is the same without it.
"""

import functools
from collections.abc import Sequence
from typing import Any

import attrs
import torch
from torch import Tensor

from skipkv import CacheView, Engine, Needs, Policy, Request, SteeringContext, tiny

NUMBER = 2
"""Which problem of `tiny.problems` the pages look at: its trace holds thoughts of all kinds."""


@functools.cache
def model() -> tuple[Any, Any]:
    """The embedded model and its tokenizer, on the CPU."""
    return tiny.load(device="cpu")


def chat(number: int = NUMBER) -> list[dict[str, str]]:
    """A problem as a chat."""
    return [{"role": "user", "content": tiny.problems(number + 1)[number].question}]


def decode(policy: Policy, number: int = NUMBER) -> tuple[list[str], Any]:
    """Decode a problem; the text of every token, prompt included, and the completion."""
    network, tokenizer = model()
    engine = Engine(network, tokenizer, policy)
    [completion] = engine.generate([chat(number)], max_new_tokens=640, trace=True, progress=False)
    ids = [*engine.encode(chat(number)), *completion.tokens]
    return [tokenizer.decode([i]) for i in ids], completion


@attrs.frozen
class SeeingScorer:
    """Passes the view on to a scorer, and keeps it with its scores."""

    scorer: Any
    seen: list[tuple[CacheView, Tensor]] = attrs.field(factory=list)

    @property
    def needs(self) -> Needs:
        """The scorer's."""
        return self.scorer.needs  # type: ignore[no-any-return]

    def score(self, view: CacheView) -> Tensor:
        """The scorer's values."""
        scores = self.scorer.score(view)
        tensors: Any = {
            name: value.clone()
            for name, value in attrs.asdict(view, recurse=False).items()
            if isinstance(value, Tensor)
        }
        self.seen.append((attrs.evolve(view, **tensors), scores.clone()))
        return scores  # type: ignore[no-any-return]


@attrs.frozen
class SeeingSteerer:
    """Passes a step on to a steerer, and keeps where the row stood and how far it was pushed."""

    steerer: Any
    seen: list[dict[str, Any]] = attrs.field(factory=list)

    @property
    def needs(self) -> Needs:
        """The steerer's."""
        return self.steerer.needs  # type: ignore[no-any-return]

    @property
    def layer(self) -> int | None:
        """The steerer's."""
        return self.steerer.layer  # type: ignore[no-any-return]

    def delta(self, hidden: Tensor, context: SteeringContext) -> Tensor:
        """The steerer's delta."""
        delta: Tensor = self.steerer.delta(hidden, context)
        along = delta @ torch.nn.functional.normalize(self.steerer.vector.vector, dim=0)
        self.seen.append(
            {
                "position": int(context.positions[0]),
                "delimiter": bool(context.at_delimiter[0]),
                "thinking": bool(context.thinking[0]),
                "thoughts": context.thoughts[0].tolist(),
                "push": float(along[0]),
            }
        )
        return delta


@attrs.frozen
class SeeingScheduler:
    """Passes the queue on to a scheduler, and keeps who entered at which forward pass."""

    scheduler: Any
    passes: list[int]
    admitted: list[tuple[int, int]] = attrs.field(factory=list)

    def admit(self, waiting: Sequence[Request], *, free: int, running: int) -> Sequence[int]:
        """The scheduler's answer."""
        chosen = list(self.scheduler.admit(waiting, free=free, running=running))
        self.admitted.extend((waiting[i].index, self.passes[0]) for i in chosen)
        return chosen
