"""Keep what is worth most, entry by entry."""

import attrs
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from skipkv._types import CacheView


@attrs.frozen
class TopK:
    """Keeps the protected entries and, of the rest, those with the highest scores.

    Exactly `budget` entries remain in every row and head that held more. Of equal scores the earlier
    slot stays, so the outcome is the same on every device.

    Source: the selection rule of SnapKV, H2O and R-KV.
    """

    def keep(
        self, scores: Float[Tensor, "R H L"], view: CacheView, budget: int
    ) -> Bool[Tensor, "R H L"]:
        """The `budget` best entries, protected ones first."""
        return best(scores.masked_fill(view.protected, torch.inf), view, budget)


def best(
    scores: Float[Tensor, "R H L"], view: CacheView, budget: int
) -> Bool[Tensor, "R H L"]:
    """The `budget` occupied slots with the highest scores; of equal ones the earlier."""
    ranked = scores.masked_fill(~view.occupied, -torch.inf)
    order = ranked.argsort(dim=-1, descending=True, stable=True)[..., :budget]
    keep = torch.zeros_like(view.protected)
    return keep.scatter_(-1, order, True) & view.occupied
