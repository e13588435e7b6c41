"""A scorer's values over the largest."""

from typing import TYPE_CHECKING

import attrs
import torch
from jaxtyping import Float
from torch import Tensor

from skipkv._calls import remembered_of, scores_of
from skipkv._types import CacheView, Needs, needs_of
from skipkv.scorers.algebra import Remembered, ScorerAlgebra

if TYPE_CHECKING:
    from skipkv.scorers.protocol import Scorer


@attrs.frozen(kw_only=True)
class Relative(ScorerAlgebra):
    """A scorer's values over the largest of the row and head: 1 for the best entry.

    Unlike `Normalized` it leaves 0 where it is. A head whose largest value is not above 0 gets 0.

    Args:
        scorer: the scorer to rescale; its values must not be negative.

    Source: G-KV (arXiv 2512.00504), for attention and for redundancy.

    Example:
        >>> from skipkv.scorers import Recency
        >>> 0.5 * Relative(scorer=Recency())
        0.5 * Relative(scorer=Recency())
    """

    scorer: "Scorer"

    @property
    def needs(self) -> Needs:
        """The needs of the scorer."""
        return needs_of(self.scorer)

    def score(self, view: CacheView) -> Float[Tensor, "R H L"]:
        """Value / largest, over the entries of the row and head."""
        scores = scores_of(self.scorer, view).masked_fill(~view.occupied, 0.0)
        highest = scores.amax(dim=-1, keepdim=True)
        tiny = torch.finfo(torch.float32).tiny
        return torch.where(highest > 0, scores / highest.clamp_min(tiny), 0.0)

    def remember(self, view: CacheView) -> Remembered:
        """What the scorer remembers."""
        return remembered_of(self.scorer, view)
