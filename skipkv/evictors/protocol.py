"""The protocol of evictors."""

from typing import Protocol, runtime_checkable

from jaxtyping import Bool, Float
from torch import Tensor

from skipkv._types import CacheView


@runtime_checkable
class Evictor(Protocol):
    """Chooses which entries stay.

    The runtime calls `keep` at a compression event, after the scorer, for rows that hold more than
    their budget. Then it drops the other entries. Evictors see the same view as scorers.

    Laws: at most `budget` entries per row and head are kept; no empty slot is kept; every entry of
    `view.protected` is kept; a row and head with no more entries than `budget` keeps all of them.

    An evictor in which a head depends on other heads of the row says so: `mixes_heads = True`. It
    is refused where the heads of a layer are divided among processes.
    """

    def keep(
        self, scores: Float[Tensor, "R H L"], view: CacheView, budget: int
    ) -> Bool[Tensor, "R H L"]:
        """True for the entries to keep.

        Args:
            scores: the scorer's values, float32.
            view: the rows the scores are for.
            budget: most entries to keep per row and head; at least as many as are protected.
        """
        ...
