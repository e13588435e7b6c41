"""The protocol of scorers."""

from typing import Protocol, runtime_checkable

from jaxtyping import Float
from torch import Tensor

from skipkv._types import CacheView


@runtime_checkable
class Scorer(Protocol):
    """Values the entries of a cache. Higher means keep.

    The runtime calls `score` at compression events only, with the rows of many layers and sequences
    in one view. A scorer that reads queries, attention or sentences declares it in an attribute
    `needs: Needs`; without the attribute it is shown keys, values and positions.

    Laws: finite for every occupied slot; float32 of the view's [R, H, L]; a row's scores depend on
    that row alone, and not on what its empty slots hold or how many there are.
    """

    def score(self, view: CacheView) -> Float[Tensor, "R H L"]:
        """A value for every slot; what empty slots get does not matter.

        Args:
            view: the rows to score, with what `needs` declares.
        """
        ...
