"""The protocol of evictors."""

from typing import Protocol, runtime_checkable

from jaxtyping import Bool, Float
from torch import Tensor

from skipkv._types import CacheView


@runtime_checkable
class Evictor(Protocol):
    """Chooses which entries stay.

    The runtime calls `keep` at a compression event, after the scorer, for rows that hold more than
    their budget; then it drops what is not kept. Evictors see the same view as scorers.

    Laws: at most `budget` entries kept per row and head; no empty slot kept; every entry of
    `view.protected` kept; everything kept where there is room for everything.
    """

    def keep(
        self, scores: Float[Tensor, "R H L"], view: CacheView, budget: int
    ) -> Bool[Tensor, "R H L"]:
        """True for the entries to keep.

        Args:
            scores: the scorer's values, float32.
            view: the rows the scores are for.
            budget: entries to keep at most, per row and head; never less than are protected.
        """
        ...
