"""Values with a large component are worth more."""

import attrs
from jaxtyping import Float
from torch import Tensor

from skipkv._types import CacheView
from skipkv.scorers.algebra import ScorerAlgebra


@attrs.frozen
class ValuePeak(ScorerAlgebra):
    """The largest component of each value: max over d of v_jd.

    A value with a large component changes the attention's output most, even with little attention.
    No query has to be observed.

    Source: VaSE (arXiv 2606.03928), where it reserves a quarter of the room.

    Differs: the paper counts the first four slots as largest; protect them, `Budget(sinks=4)`.

    Example:
        >>> ValuePeak()
        ValuePeak()
    """

    def score(self, view: CacheView) -> Float[Tensor, "R H L"]:
        """The largest component, in float32."""
        return view.values.float().amax(dim=-1)
