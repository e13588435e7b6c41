"""Random scores: the baseline that every scorer must beat."""

import attrs
import torch
from jaxtyping import Float, Int
from torch import Tensor

from skipkv._types import CacheView
from skipkv._validators import is_a
from skipkv.scorers.algebra import ScorerAlgebra

_BITS = 0xFFFF_FFFF


@attrs.frozen(kw_only=True)
class Random(ScorerAlgebra):
    """Noise in [0, 1): a function of the seed, the KV head and the token's position alone.

    An entry has the same value at every compression event, in every batch and on every device. New
    noise at each event would evict older entries more often than younger ones. Rows do not know
    their layer or sequence, so all rows get the same noise for the same head and position.

    Source: this library.

    Args:
        seed: any integer; the low 32 bits are used.

    Example:
        >>> Random(seed=3)
        Random(seed=3)
    """

    seed: int = attrs.field(default=0, validator=is_a(int))

    def score(self, view: CacheView) -> Float[Tensor, "R H L"]:
        """A hash of seed, head and position as a number in [0, 1)."""
        device = view.positions.device
        heads = torch.arange(view.positions.shape[1], device=device)[:, None]  # [H, 1]
        seed = torch.tensor(self.seed & _BITS, device=device)
        bits = _mixed(_mixed(_mixed(seed) ^ heads) ^ view.positions.long())
        return (bits >> 8).float() / 2**24  # 24 bits: as many as a float32 holds


def _mixed(bits: Int[Tensor, "*axes"]) -> Int[Tensor, "*axes"]:
    """A bijection of 32-bit integers, held in int64, that spreads every bit over all others.

    Two rounds of xor-shift and multiply with a factor small enough that no product leaves int64.
    The offset keeps 0 from being mixed to 0.
    """
    bits = (bits + 0x9E37_79B9) & _BITS
    for _ in range(2):
        bits = ((bits ^ (bits >> 16)) * 0x045D_9F3B) & _BITS
    return bits ^ (bits >> 16)
