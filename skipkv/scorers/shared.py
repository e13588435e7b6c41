"""One value per token for all heads."""

from typing import TYPE_CHECKING

import attrs
from jaxtyping import Float
from torch import Tensor

from skipkv._calls import remembered_of, scores_of
from skipkv._types import CacheView, Needs, needs_of, over_heads
from skipkv.scorers.algebra import Remembered, ScorerAlgebra

if TYPE_CHECKING:
    from skipkv.scorers.protocol import Scorer


@attrs.frozen(kw_only=True)
class Shared(ScorerAlgebra):
    """A scorer averaged over the KV heads of a row, so that all heads keep the same tokens.

    Heads are matched by position and not by slot. A head that does not hold a token any more counts
    as 0 for it.

    Source: this library. Published KV-cache baselines called H2O choose one set of tokens per layer
    from the newest query: `Shared(scorer=WindowAttention(window=1, pool=1))`.

    Args:
        scorer: the scorer to average.

    Example:
        >>> from skipkv.scorers import WindowAttention
        >>> Shared(scorer=WindowAttention(window=1, pool=1))
        Shared(scorer=WindowAttention(window=1, pool=1))
    """

    scorer: "Scorer"

    @property
    def mixes_heads(self) -> bool:
        """The heads of a row share their scores."""
        return True

    @property
    def needs(self) -> Needs:
        """The needs of the scorer."""
        return needs_of(self.scorer)

    def score(self, view: CacheView) -> Float[Tensor, "R H L"]:
        """The mean over heads of the scorer's values for the token in each slot."""
        total = over_heads(scores_of(self.scorer, view), view.positions, "sum")
        return total / view.positions.shape[1]

    def remember(self, view: CacheView) -> Remembered:
        """What the scorer remembers."""
        return remembered_of(self.scorer, view)
