"""The protocol of scorers."""

from typing import Protocol, runtime_checkable

from jaxtyping import Float
from torch import Tensor

from skipkv._types import CacheView


@runtime_checkable
class Scorer(Protocol):
    """Values the entries of a cache. Higher means keep.

    The runtime calls `score` at compression events only, with the rows of many layers and sequences
    in one view. A scorer that reads queries, attention or sentences declares them in an attribute
    `needs: Needs`. Without the attribute its views have keys, values and positions only.

    Laws: finite for every occupied slot; float32 of the view's [R, H, L]; a row's scores depend on
    that row alone, and neither on the contents nor on the number of its empty slots.
    """

    def score(self, view: CacheView) -> Float[Tensor, "R H L"]:
        """A value for every slot; the values of empty slots are not read.

        Args:
            view: the rows to score, with everything that `needs` declares.
        """
        ...
