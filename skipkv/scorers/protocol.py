"""The protocol of scorers."""

from typing import Protocol, runtime_checkable

from jaxtyping import Float
from torch import Tensor

from skipkv._types import CacheView, Memory, Written


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


class OptionalMethods(Protocol):
    """Methods that a scorer or an evictor may have, with the arguments they are called with."""

    def remember(self, view: CacheView) -> dict[Memory, Float[Tensor, "R H L"]]:
        """What its memories hold for each entry at the next event; a scorer's alone is called.

        Args:
            view: the view that was scored.
        """
        ...

    def on_write(
        self,
        keys: Float[Tensor, "B H T D"],
        values: Float[Tensor, "B H T D"],
        hidden: Float[Tensor, "B T E"],
        layer: int,
    ) -> dict[Written, Float[Tensor, "B H T"]]:
        """What is written beside new entries.

        Args:
            keys: of the new entries, after RoPE.
            values: of the new entries.
            hidden: the states that enter the layer.
            layer: its number in the model.
        """
        ...

    def most_per_head(self, budget: int) -> int:
        """The most entries that one head keeps, for an evictor whose heads share their budgets.

        Args:
            budget: entries per head, on average.
        """
        ...
