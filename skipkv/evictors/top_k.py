"""Keep what is worth most, entry by entry."""

import attrs
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from skipkv._types import CacheView


@attrs.frozen
class TopK:
    """Keeps the protected entries and, of the rest, those with the highest scores.

    Exactly `budget` entries remain in every row and head that held more. Of equal scores the
    earlier slot stays, so the outcome is the same on every device.

    Source: the selection rule of SnapKV (arXiv 2404.14469), H2O (arXiv 2306.14048) and R-KV
    (arXiv 2505.24133).

    Example:
        >>> TopK()
        TopK()
    """

    def keep(
        self, scores: Float[Tensor, "R H L"], view: CacheView, budget: int
    ) -> Bool[Tensor, "R H L"]:
        """The `budget` best entries, protected ones first."""
        return best(scores.masked_fill(view.protected, torch.inf), view, budget)


def best(
    scores: Float[Tensor, "R H L"],
    view: CacheView,
    budget: int,
    tier: Int[Tensor, "R H L"] | None = None,
) -> Bool[Tensor, "R H L"]:
    """The `budget` occupied slots with the highest scores; of equal ones the earlier.

    Args:
        scores: a value per slot.
        view: the rows the scores are for.
        budget: entries to keep at most, per row and head.
        tier: where given, entries of a higher tier come first, whatever their scores.
    """
    ranked = scores.masked_fill(~view.occupied, -torch.inf)
    order = ranked.argsort(dim=-1, descending=True, stable=True)
    if tier is not None:
        tier = tier.masked_fill(~view.occupied, torch.iinfo(tier.dtype).min)
        # a stable sort by tier of what is sorted by score: by tier, then by score
        again = tier.gather(-1, order).argsort(dim=-1, descending=True, stable=True)
        order = order.gather(-1, again)
    keep = torch.zeros_like(view.protected)
    return keep.scatter_(-1, order[..., :budget], True) & view.occupied
