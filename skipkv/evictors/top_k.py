"""Keep the entries with the highest scores."""

import attrs
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from skipkv._types import CacheView

# 2**7 tiers either way, 2**32 scores and 2**24 slots: together they fill 64 bits.
_TIERS, _SLOTS = 2**7, 2**24


@attrs.frozen
class TopK:
    """Keeps the protected entries, and of the others those with the highest scores.

    Exactly `budget` entries remain in every row and head that held more. Of equal scores the
    earlier slot stays, so the result is the same on every device.

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
        return best(scores, view, budget, view.protected.int())


def best(
    scores: Float[Tensor, "R H L"],
    view: CacheView,
    budget: int,
    tier: Int[Tensor, "R H L"],
) -> Bool[Tensor, "R H L"]:
    """The `budget` occupied slots with the highest scores; of equal ones the earlier.

    Args:
        scores: a value per slot; compared in float32.
        view: the rows the scores are for.
        budget: most entries to keep per row and head.
        tier: entries of a higher tier come first, whatever their scores; from -100 to 100.
    """
    order = ordered(scores, tier.masked_fill(~view.occupied, -_TIERS))
    chosen = order.topk(min(budget, order.shape[-1]), dim=-1, sorted=False).indices
    return torch.zeros_like(view.occupied).scatter_(-1, chosen, True) & view.occupied


def ordered(scores: Float[Tensor, "R H L"], tier: Int[Tensor, "R H L"]) -> Int[Tensor, "R H L"]:
    """A different number for every slot, ordered by tier, then score, then the earlier slot.

    With one number a selection is enough. Tier and score apart would take two stable sorts.
    """
    slots = scores.shape[-1]
    bits = (scores.float() + 0.0).view(torch.int32)  # the sum turns -0.0 into 0.0
    # bits of floats order as integers do, negative ones the other way round
    flipped = (bits >> 31).bitwise_and_(0x7FFFFFFF).bitwise_xor_(bits)
    order = flipped.long().add_(2**31)  # in [0, 2**32)
    order.add_(tier.long(), alpha=2**32).mul_(_SLOTS)
    return order.add_(torch.arange(slots - 1, -1, -1, device=scores.device))
