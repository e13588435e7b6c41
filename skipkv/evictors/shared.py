"""One keep set for all heads of a layer."""

import attrs
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from skipkv._types import CacheView, Needs, needs_of, over_heads
from skipkv.errors import ConfigError
from skipkv.evictors.protocol import Evictor
from skipkv.evictors.top_k import TopK, best

_WAYS = ("mean", "max", "vote")


@attrs.frozen(kw_only=True)
class Shared:
    """All KV heads of a layer keep the same tokens, chosen by all of them together.

    A paged cache has one table of pages for all heads, so it can drop a token only from all of
    them. What that costs depends on how the heads' scores become one.

    * "mean": the mean over heads.
    * "max": the largest of the heads' scores, so that a token stays if one head needs it.
    * "vote": the number of heads that would keep the token themselves; of equal numbers the higher
      mean. It needs no common scale of the heads' scores.

    Heads are matched by position. Under a runtime they hold the same entries from the first event
    on, so they keep the same; in a view in which they differ, each fills its budget with the best
    of its own.

    One set for all layers is not offered: the runtime shows an evictor some layers at a time, as
    many as fit its memory, so an evictor cannot choose for all.

    Args:
        evictor: chooses by the joined scores; for a vote, by each head's own.
        over: "mean", "max" or "vote".

    Raises:
        ConfigError: `over` is none of the three.

    Source: this library. TOVA (arXiv 2401.06104) keeps one set per layer, by the mean.

    Example:
        >>> Shared(over="max")
        Shared(evictor=TopK(), over='max')
    """

    evictor: Evictor = attrs.field(factory=TopK)
    over: str = attrs.field(default="mean")

    def __attrs_post_init__(self) -> None:
        if self.over not in _WAYS:
            raise ConfigError(
                f"Shared(over={self.over!r}) must be 'mean', 'max' or 'vote': how the scores of "
                "heads become one. For one set over all layers there is no evictor: an evictor "
                "sees some layers at a time."
            )

    @property
    def mixes_heads(self) -> bool:
        """The heads of a row keep the same tokens."""
        return True

    @property
    def needs(self) -> Needs:
        """What the evictor needs."""
        return needs_of(self.evictor)

    def keep(
        self, scores: Float[Tensor, "R H L"], view: CacheView, budget: int
    ) -> Bool[Tensor, "R H L"]:
        """The evictor's choice by scores that all heads share."""
        if self.over == "max":
            return self.evictor.keep(over_heads(scores, view.positions, "max"), view, budget)
        mean = over_heads(scores, view.positions, "mean")
        if self.over == "mean":
            return self.evictor.keep(mean, view, budget)
        own = self.evictor.keep(scores, view, budget).float()
        votes = over_heads(own, view.positions, "sum")
        tier = (votes / own.shape[1] * 99).round().int()  # heads in hundredths: tiers end at 100
        return best(mean, view, budget, torch.where(view.protected, 100, tier))
