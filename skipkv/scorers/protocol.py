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

    A scorer in which a head depends on other heads of the row says so: `mixes_heads = True`.
    It is refused where the heads of a layer are divided among processes.

    A scorer that declares a `Memory` may have a second method, `remember(view)`. The runtime calls
    it after `score`, with the same view. It returns a float32 tensor [R, H, L] for each memory that
    it writes: what the entries have at the next event, if they stay.

    A scorer that declares a `Written` has a method `on_write(keys, values, hidden, layer)`. The
    runtime calls it in every pass, for each layer, before the entries of its new tokens are cached:
    with their keys and values [B, H, T, D] (post-RoPE), the states [B, T, E] that enter the layer,
    and the layer's number in the model. It returns a float32 tensor [B, H, T] for each such record.
    Some tokens may be padding; what it says of these is forgotten.

    Laws: finite for every occupied slot; float32 of the view's [R, H, L]; a row's scores depend on
    that row alone, and neither on the contents nor on the number of its empty slots.
    """

    def score(self, view: CacheView) -> Float[Tensor, "R H L"]:
        """A value for every slot; the values of empty slots are not read.

        Args:
            view: the rows to score, with everything that `needs` declares.
        """
        ...
