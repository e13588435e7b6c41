"""The protocol of evictors."""

from typing import Any, Protocol, runtime_checkable

from jaxtyping import Bool, Float
from torch import Tensor

from skipkv._calls import saying
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

    An evictor in which a row depends on the other layers of its sequence says so too:
    `mixes_layers = True`. Then every view has all layers of its sequences.

    An evictor may let the heads of a row share their budgets. It says so by a method
    `most_per_head(budget)`: the most entries that it keeps of one head, at least `budget`. All
    heads of a row together then keep at most `H * budget` entries; and all that they hold, if it is
    no more and no head holds more than that. The cache has room for as many in every head.
    """

    def keep(
        self, scores: Float[Tensor, "R H L"], view: CacheView, budget: int
    ) -> Bool[Tensor, "R H L"]:
        """True for the entries to keep.

        Args:
            scores: the scorer's values, float32.
            view: the rows the scores are for.
            budget: most entries to keep per row and head, or on average over the heads of a row
                that share it; at least as many as are protected.
        """
        ...


def pools_heads(evictor: Any) -> bool:
    """Whether the heads of a row share their budgets."""
    return hasattr(evictor, "most_per_head")


def mixes_layers(evictor: Any) -> bool:
    """Whether the layers of a sequence must be in one view, for the evictor or one inside it."""
    return saying(evictor, "mixes_layers") is not None


def most_of(evictor: Any, budget: int) -> int:
    """The most entries that an evictor keeps of one head.

    Args:
        evictor: any evictor.
        budget: entries per head, on average where heads share their budgets.
    """
    return int(evictor.most_per_head(budget)) if pools_heads(evictor) else budget
