"""Checked by mypy, never run: what ships fits the protocols, and what does not fit is found.

A line with `type: ignore` is a claim that mypy objects there: an unused one is an error.
"""

import attrs
import torch
from jaxtyping import Float
from torch import Tensor

from skipkv import (
    BatchScheduler,
    Budget,
    CacheView,
    Evictor,
    Policy,
    Scorer,
    Segmenter,
    Steerer,
    presets,
)
from skipkv.evictors import KeepAll, SentencePrimary, SinkAndRecent, TopK, WholeSentence
from skipkv.schedulers import Continuous, LengthGrouped
from skipkv.scorers import (
    AccumulatedAttention,
    KeyNorm,
    KeyRedundancy,
    LastQueryAttention,
    Random,
    Recency,
    SentenceRedundancy,
    WindowAttention,
)
from skipkv.segmenters import Delimiter, FixedLength, Newline, Punkt
from skipkv.steerers import AdaptiveSteerer, AdditiveSteerer, NoSteering
from skipkv.testing import check_evictor, check_policy, check_scorer, conformance

scorers: list[type[Scorer]] = [
    AccumulatedAttention,
    KeyNorm,
    KeyRedundancy,
    LastQueryAttention,
    Random,
    Recency,
    SentenceRedundancy,
    WindowAttention,
]
evictors: list[type[Evictor]] = [KeepAll, SentencePrimary, SinkAndRecent, TopK, WholeSentence]
segmenters: list[type[Segmenter]] = [Delimiter, FixedLength, Newline, Punkt]
steerers: list[type[Steerer]] = [AdaptiveSteerer, AdditiveSteerer, NoSteering]
schedulers: list[type[BatchScheduler]] = [Continuous, LengthGrouped]


@attrs.frozen
class ByShape:
    """A user's scorer: it inherits nothing."""

    def score(self, view: CacheView) -> Float[Tensor, "R H L"]:
        score: Tensor = view.values.norm(dim=-1)
        return score


@attrs.frozen
class Misspelt:
    def scores(self, view: CacheView) -> Float[Tensor, "R H L"]:
        return torch.zeros(1)


a_scorer: Scorer = ByShape()
no_scorer: Scorer = Misspelt()  # type: ignore[assignment]

# The algebra gives scorers again, with a scorer by shape on the other side too.
a_sum: Scorer = 0.1 * Recency() - 0.9 * KeyNorm() + ByShape()
normalized: Scorer = (Recency() + KeyNorm()).normalized()

policy: Policy = Policy(budget=Budget(tokens=64), scorer=ByShape())
wrong_part: Policy = Policy(scorer=TopK())  # type: ignore[arg-type]
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
