"""A scorer's values on a common scale."""

from typing import TYPE_CHECKING

import attrs
import torch
from jaxtyping import Float
from torch import Tensor

from skipkv._calls import scores_of
from skipkv._types import CacheView, Needs, needs_of
from skipkv.scorers.algebra import ScorerAlgebra

if TYPE_CHECKING:
    from skipkv.scorers.protocol import Scorer


@attrs.frozen(kw_only=True)
class Normalized(ScorerAlgebra):
    """A scorer's values stretched to [0, 1] over the entries of each row and head.

    Scorers differ in scale by orders of magnitude. Weights between them are comparable once each
    scorer spans the same range. A head whose entries all have the same value gets 0.

    Source: this library.

    Args:
        scorer: the scorer to rescale.

    Example:
        >>> from skipkv.scorers import KeyNorm, Recency
        >>> 0.5 * KeyNorm().normalized() + 0.5 * Recency()
        0.5 * Normalized(scorer=KeyNorm()) + 0.5 * Recency()
    """

    scorer: "Scorer"

    @property
    def needs(self) -> Needs:
        """The needs of the scorer."""
        return needs_of(self.scorer)

    def score(self, view: CacheView) -> Float[Tensor, "R H L"]:
        """(value - lowest) / (highest - lowest), both over the entries of the row and head."""
        scores = scores_of(self.scorer, view)
        empty = ~view.occupied
        lowest = scores.masked_fill(empty, torch.inf).amin(dim=-1, keepdim=True)
        highest = scores.masked_fill(empty, -torch.inf).amax(dim=-1, keepdim=True)
        span = highest - lowest
        return ((scores - lowest) / span).masked_fill(empty | (span <= 0), 0.0)
