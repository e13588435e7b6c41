"""Never drop anything."""

import attrs
from jaxtyping import Bool, Float
from torch import Tensor

from skipkv._types import CacheView


@attrs.frozen
class KeepAll:
    """Keeps every entry: the full cache.

    It ignores the budget, so use it only in a policy without one (`Policy(budget=None)`).

    Source: this library.

    Example:
        >>> KeepAll()
        KeepAll()
    """

    def keep(
        self, scores: Float[Tensor, "R H L"], view: CacheView, budget: int
    ) -> Bool[Tensor, "R H L"]:
        """Every occupied slot."""
        return view.occupied
