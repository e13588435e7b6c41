"""Entries that have received much attention are worth more."""

import attrs
from jaxtyping import Float
from torch import Tensor

from skipkv._types import CacheView, Needs
from skipkv.scorers._attention import received
from skipkv.scorers.algebra import ScorerAlgebra


@attrs.frozen
class AccumulatedAttention(ScorerAlgebra):
    """Attention each entry has received since it was cached, summed over queries: heavy hitters.

    A few tokens get most of the attention, now and later. H2O gives half of the budget to them and
    half to the most recent tokens: `Budget(tokens=n, window=n // 2)`.

    Source: H2O (arXiv 2306.14048), section 4.

    Differs: entries are dropped at compression events and not at every step. As in the paper, older
    entries have had more queries to collect attention from.

    Raises:
        InputError: the view carries no attention.

    Example:
        >>> AccumulatedAttention().needs
        Needs(attention=True)
    """

    @property
    def needs(self) -> Needs:
        """Accumulated attention."""
        return Needs(attention=True)

    def score(self, view: CacheView) -> Float[Tensor, "R H L"]:
        """The accumulated attention as it is."""
        return received(view, "AccumulatedAttention")
