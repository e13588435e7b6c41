"""Heads that share their budgets."""

import math

import attrs
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from skipkv._shares import floor_of
from skipkv._types import CacheView
from skipkv._validators import is_a
from skipkv.errors import ConfigError
from skipkv.evictors.top_k import best, ordered


@attrs.frozen(kw_only=True)
class Pooled:
    """The KV heads of a layer share their budgets: the best entries of all of them stay.

    A head that spreads its attention gets more room, one that looks at few entries gets less. Each
    head keeps its protected entries and, with these, its best `floor * budget`. The rest of the
    row's `H * budget` goes to the highest scores of all heads, up to `cap * budget` in one head.
    So heads' scores must have a common scale, as shares of attention do.

    The cache has room for `cap * budget` entries in every head, so memory grows with the cap, up to
    the number of KV heads.

    Of equal scores the earlier slot stays. Where entries of several heads tie and there is not room
    for all of them, none of them stays: heads have no order.

    Args:
        floor: the share of its budget that a head keeps at least, in [0, 1].
        cap: the most that a head keeps, in budgets; at least 1.

    Raises:
        ConfigError: `floor` or `cap` lies outside its range.

    Source: Ada-KV (arXiv 2407.11550), with its safeguard of 0.2.
    Differs: the paper has no cap; its cache gives each head as many slots as the head keeps.

    Example:
        >>> Pooled().most_per_head(100)
        200
    """

    floor: float = attrs.field(default=0.2, validator=is_a(float))
    cap: float = attrs.field(default=2.0, validator=is_a(float))

    def __attrs_post_init__(self) -> None:
        if not 0 <= self.floor <= 1:
            raise ConfigError(
                f"Pooled(floor={self.floor}) must lie in [0, 1]: it is the share of its budget "
                "that a head keeps whatever the other heads' scores are."
            )
        if not 1 <= self.cap < math.inf:
            raise ConfigError(
                f"Pooled(cap={self.cap}) must be at least 1 and finite: it is the most that a head "
                "keeps, in budgets. The number of KV heads is the largest that has an effect."
            )

    @property
    def mixes_heads(self) -> bool:
        """What a head keeps depends on the other heads of the row."""
        return True

    def most_per_head(self, budget: int) -> int:
        """The most entries that one head keeps."""
        return floor_of(self.cap, budget)

    def keep(
        self, scores: Float[Tensor, "R H L"], view: CacheView, budget: int
    ) -> Bool[Tensor, "R H L"]:
        """The best `H * budget` entries of a row, within the floor and the cap of each head."""
        protected = view.protected.int()
        able = best(scores, view, self.most_per_head(budget), protected)
        sure = best(scores, view, floor_of(self.floor, budget), protected) | view.protected
        order = ordered(scores, (sure.int() + protected).masked_fill(~able, -1))
        whole = budget * scores.shape[1]
        every = order.flatten(1)  # [R H*L]
        if every.shape[1] <= whole:
            return able
        top = every.topk(whole + 1, dim=1).values
        # the last that has room, or, where it ties with the next one, whatever is above both
        least = torch.where(top[:, -2] == top[:, -1], top[:, -2] + 1, top[:, -2])
        return (order >= least[:, None, None]) & able
