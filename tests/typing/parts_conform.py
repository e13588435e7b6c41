"""Checked by mypy and pyright, never run: what ships fits the protocols, what does not is found.

A line with `type: ignore` is a claim that both object there: an unused one is an error.
"""

from collections.abc import Sequence

import attrs
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from skipkv import (
    BatchScheduler,
    Budget,
    CacheView,
    Cut,
    Evictor,
    Policy,
    Request,
    Scorer,
    Segmenter,
    Steerer,
    SteeringContext,
    TokenStream,
    presets,
)
from skipkv.evictors import KeepAll, SentencePrimary, Shared, SinkAndRecent, TopK, WholeSentence
from skipkv.schedulers import Continuous, LengthGrouped
from skipkv.scorers import (
    AccumulatedAttention,
    AttentionRate,
    GateScore,
    KeyNorm,
    KeyRedundancy,
    LastQueryAttention,
    Random,
    Recency,
    Recurrence,
    Retention,
    SentenceRedundancy,
    TriAttention,
    WindowAttention,
)
from skipkv.segmenters import Delimiter, FixedLength, Newline, Punkt
from skipkv.steerers import AdaptiveSteerer, AdditiveSteerer, NoSteering
from skipkv.testing import check_evictor, check_policy, check_scorer, conformance

scorers: list[type[Scorer]] = [
    AccumulatedAttention,
    AttentionRate,
    GateScore,
    KeyNorm,
    KeyRedundancy,
    LastQueryAttention,
    Random,
    Recency,
    Recurrence,
    Retention,
    SentenceRedundancy,
    TriAttention,
    WindowAttention,
]
evictors: list[type[Evictor]] = [
    KeepAll,
    SentencePrimary,
    Shared,
    SinkAndRecent,
    TopK,
    WholeSentence,
]
segmenters: list[type[Segmenter]] = [Delimiter, FixedLength, Newline, Punkt]
steerers: list[type[Steerer]] = [AdaptiveSteerer, AdditiveSteerer, NoSteering]
schedulers: list[type[BatchScheduler]] = [Continuous, LengthGrouped]


@attrs.frozen
class ByShape:
    """A user's scorer: it inherits nothing."""

    def score(self, view: CacheView) -> Float[Tensor, "R H L"]:
        score: Tensor = view.values.norm(dim=-1)
        return score


a_scorer: Scorer = ByShape()


class Misspelt:
    """A part of every kind, had its methods been called otherwise."""

    layers: int | None = None

    def scores(self, view: CacheView) -> Float[Tensor, "R H L"]:
        return torch.zeros(1)

    def keeps(
        self, scores: Float[Tensor, "R H L"], view: CacheView, budget: int
    ) -> Bool[Tensor, "R H L"]:
        return scores > 0

    def cuts(self, stream: TokenStream) -> list[Cut]:
        return []

    def deltas(
        self, hidden: Float[Tensor, "R E"], context: SteeringContext
    ) -> Float[Tensor, "R E"]:
        return hidden

    def admits(self, waiting: Sequence[Request], *, free: int, running: int) -> list[int]:
        return []


class WrongAnswers:
    """A part of every kind, did its methods return what they should."""

    layer = "last"

    def score(self, view: CacheView) -> float:
        return 0.0

    def keep(self, scores: Float[Tensor, "R H L"], view: CacheView, budget: int) -> list[int]:
        return []

    def cut(self, stream: TokenStream) -> list[int]:
        return []

    def delta(self, hidden: Float[Tensor, "R E"], context: SteeringContext) -> None: ...

    def admit(self, waiting: Sequence[Request], *, free: int, running: int) -> list[Request]:
        return []


class WrongArguments:
    """A part of every kind, did its methods take what they are given."""

    layer = 3

    def score(self, keys: Tensor, values: Tensor) -> Float[Tensor, "R H L"]:
        return keys

    def keep(self, scores: Float[Tensor, "R H L"], budget: int) -> Bool[Tensor, "R H L"]:
        return scores > 0

    def cut(self, text: str) -> list[Cut]:
        return []

    def delta(self, hidden: Float[Tensor, "R E"]) -> Float[Tensor, "R E"]:
        return hidden

    def admit(self, waiting: Sequence[Request], free: int) -> list[int]:
        return []


class NoLayer:
    """A steerer that does not say which layer it steers."""

    def delta(self, hidden: Float[Tensor, "R E"], context: SteeringContext) -> Float[Tensor, "R E"]:
        return hidden


# A wrong part is an error where it is passed, for each of the five protocols.
Policy(scorer=Misspelt())  # type: ignore[arg-type]
Policy(evictor=Misspelt())  # type: ignore[arg-type]
Policy(segmenter=Misspelt())  # type: ignore[arg-type]
Policy(steerer=Misspelt())  # type: ignore[arg-type]
Policy(scheduler=Misspelt())  # type: ignore[arg-type]

Policy(scorer=WrongAnswers())  # type: ignore[arg-type]
Policy(evictor=WrongAnswers())  # type: ignore[arg-type]
Policy(segmenter=WrongAnswers())  # type: ignore[arg-type]
Policy(steerer=WrongAnswers())  # type: ignore[arg-type]
Policy(scheduler=WrongAnswers())  # type: ignore[arg-type]

Policy(scorer=WrongArguments())  # type: ignore[arg-type]
Policy(evictor=WrongArguments())  # type: ignore[arg-type]
Policy(segmenter=WrongArguments())  # type: ignore[arg-type]
Policy(steerer=WrongArguments())  # type: ignore[arg-type]
Policy(scheduler=WrongArguments())  # type: ignore[arg-type]

Policy(steerer=NoLayer())  # type: ignore[arg-type]
Policy(scorer=Recency)  # type: ignore[arg-type]
Policy(evictor=KeepAll)  # type: ignore[arg-type]
Policy(segmenter=Newline)  # type: ignore[arg-type]
Policy(steerer=NoSteering)  # type: ignore[arg-type]
Policy(scheduler=LengthGrouped)  # type: ignore[arg-type]

# The algebra gives scorers again, with a scorer by shape on the other side too.
a_sum: Scorer = 0.1 * Recency() - 0.9 * KeyNorm() + ByShape()
normalized: Scorer = (Recency() + KeyNorm()).normalized()

policy: Policy = Policy(budget=Budget(tokens=64), scorer=ByShape())
one_for_another: Policy = Policy(scorer=TopK())  # type: ignore[arg-type]
no_keywords: Budget = Budget(64)  # type: ignore[call-arg]
a_preset: Policy = presets.rkv(budget=64)
a_changed_one: Policy = a_preset.with_(scheduler=Continuous())

# The kit takes what fits the protocol that its check is for.
check_scorer(ByShape())
check_scorer(TopK())  # type: ignore[arg-type]
check_evictor(TopK(), claims={"budget": "a reason"})
check_evictor(TopK(), claims="budget")  # type: ignore[arg-type]
check_policy(policy)
check_policy(ByShape())  # type: ignore[arg-type]


@conformance(ByShape())
class StaysAClass:
    """What is decorated is what it was."""


stays_a_class: type[StaysAClass] = StaysAClass
