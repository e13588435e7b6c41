"""Keys that point away from the others are rare."""

import attrs
import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import normalize

from skipkv._types import CacheView, Needs
from skipkv._validators import is_a
from skipkv.scorers.algebra import ScorerAlgebra


@attrs.frozen(kw_only=True)
class KeyDiff(ScorerAlgebra):
    """Minus the cosine similarity of a key and the mean direction of the keys of its head.

    Keys that differ from the mean are rare. Queries that look for them find nothing else, so they
    get much attention. No query has to be observed, and time is linear in the entries.

    Source: KeyDiff (arXiv 2504.15364).

    Args:
        unrotated: compare keys as they were before RoPE. After it, keys of one token at distant
            positions differ by their distance too.

    Example:
        >>> KeyDiff(unrotated=True)
        KeyDiff(unrotated=True)
    """

    unrotated: bool = attrs.field(default=False, validator=is_a(bool))

    @property
    def needs(self) -> Needs:
        """The rotation, if keys are compared as they were before it."""
        return Needs(rotary=self.unrotated)

    def score(self, view: CacheView) -> Float[Tensor, "R H L"]:
        """The lowest is -1: the key with the mean direction itself."""
        keys = view.unrotated_keys if self.unrotated else view.keys.float()
        unit = normalize(keys.masked_fill(~view.occupied[..., None], 0.0), dim=-1)
        mean = normalize(unit.sum(dim=2), dim=-1)  # the sum of directions has that of the mean
        similarity: Tensor = torch.matmul(unit, mean[..., None])[..., 0]
        return -similarity
