"""One keep set for all heads of a layer, or of all layers."""

from typing import Literal

import attrs
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from skipkv._types import CacheView, Needs, needs_of, over_heads
from skipkv._validators import is_a
from skipkv.errors import ConfigError, InputError
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

    With `layers` there is one set for all layers too, as an engine needs whose layers share a table
    of pages. Layers then count like heads. All layers of a sequence must be in one view: the
    runtime shows them so, which takes memory for scores of all of them at once.

    Args:
        evictor: chooses by the joined scores; for a vote, by each head's own.
        over: "mean", "max" or "vote".
        layers: whether all layers of a sequence share the set as well.

    Raises:
        ConfigError: `over` is none of the three.

    Source: this library. TOVA (arXiv 2401.06104) keeps one set per layer, by the mean.

    Example:
        >>> Shared(over="max")
        Shared(evictor=TopK(), over='max', layers=False)
    """

    evictor: Evictor = attrs.field(factory=TopK)
    over: str = attrs.field(default="mean")
    layers: bool = attrs.field(default=False, validator=is_a(bool))

    def __attrs_post_init__(self) -> None:
        if self.over not in _WAYS:
            raise ConfigError(
                f"Shared(over={self.over!r}) must be 'mean', 'max' or 'vote': how the scores of "
                "heads become one. For one set over all layers, say layers=True."
            )

    @property
    def mixes_heads(self) -> bool:
        """The heads of a row keep the same tokens."""
        return True

    @property
    def mixes_layers(self) -> bool:
        """Whether all rows of a sequence keep the same tokens and must be in one view."""
        return self.layers

    @property
    def needs(self) -> Needs:
        """What the evictor needs."""
        return needs_of(self.evictor)

    def keep(
        self, scores: Float[Tensor, "R H L"], view: CacheView, budget: int
    ) -> Bool[Tensor, "R H L"]:
        """The evictor's choice by scores that all heads share.

        Raises:
            InputError: `layers` is set and the view lacks a layer of a sequence.
        """
        if self.over == "max":
            return self.evictor.keep(self._joined(scores, view, "max"), view, budget)
        mean = self._joined(scores, view, "mean")
        if self.over == "mean":
            return self.evictor.keep(mean, view, budget)
        own = self.evictor.keep(scores, view, budget).float()
        votes = self._joined(own, view, "sum")
        return best(_by(votes, mean), view, budget, view.protected.int())

    def _joined(
        self, values: Float[Tensor, "R H L"], view: CacheView, how: Literal["sum", "mean", "max"]
    ) -> Float[Tensor, "R H L"]:
        """The values of the heads that choose together as one value per token."""
        if not self.layers:
            return over_heads(values, view.positions, how)
        order = (view.sequences.long() * view.depth + view.layers).argsort()
        counts = view.sequences.bincount()
        if bool(((counts != view.depth) & (counts > 0)).any()):
            raise InputError(
                f"Shared(layers=True) chooses for all {view.depth} layers of a sequence, and here "
                f"it is shown {int(counts[counts > 0].min())} of them. Show the rows of all layers "
                "in one call, or take layers=False."
            )

        def together(tensor: Tensor) -> Tensor:  # [sequences, layers * H, L]
            return tensor[order].reshape(-1, view.depth * tensor.shape[1], tensor.shape[2])

        joined = over_heads(together(values), together(view.positions), how)
        return torch.empty_like(values).index_copy_(0, order, joined.reshape(values.shape))


def _by(first: Float[Tensor, "R H L"], second: Float[Tensor, "R H L"]) -> Float[Tensor, "R H L"]:
    """Minus the place of each slot in the order of `first`, `second` and the earlier slot."""
    order = second.argsort(dim=-1, descending=True, stable=True)
    ranked = first.gather(-1, order).argsort(dim=-1, descending=True, stable=True)
    return -order.gather(-1, ranked).argsort(dim=-1).float()
