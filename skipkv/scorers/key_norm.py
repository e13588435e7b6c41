"""Keys of small norm draw much attention."""

import attrs
import torch
from jaxtyping import Float
from torch import Tensor

from skipkv._types import CacheView
from skipkv.scorers.algebra import ScorerAlgebra


@attrs.frozen
class KeyNorm(ScorerAlgebra):
    """The negative L2 norm of the key: the cheapest scorer that reads the cache.

    In decoder-only models keys of small norm get much attention, so they are worth keeping. No
    query has to be observed.

    Source: Devoto et al. (arXiv 2406.11430).

    Differs: the paper leaves the first two layers uncompressed; here every layer has the same
    budget.

    Example:
        >>> KeyNorm()
        KeyNorm()
    """

    def score(self, view: CacheView) -> Float[Tensor, "R H L"]:
        """Minus the norm of each key, so higher means keep."""
        norm: Tensor = torch.linalg.vector_norm(view.keys.float(), dim=-1)
        return -norm
