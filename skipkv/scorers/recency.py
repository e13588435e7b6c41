"""Newer entries are worth more."""

import attrs
from jaxtyping import Float
from torch import Tensor

from skipkv._types import CacheView
from skipkv.scorers.algebra import ScorerAlgebra


@attrs.frozen
class Recency(ScorerAlgebra):
    """Position over tokens seen: 0 for the first token, just below 1 for the newest.

    With `TopK` it gives a sliding window over each row.

    Source: this library.

    Example:
        >>> Recency()
        Recency()
    """

    def score(self, view: CacheView) -> Float[Tensor, "R H L"]:
        """Position divided by the tokens the row's sequence has seen."""
        return view.positions.float() / view.seen.clamp_min(1)[:, None, None].float()
