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
    """Noise in [0, 1) that knows an entry by its layer, KV head and position.

    By default it is fresh: a function of the seed, layer, head, position and tokens seen. Each
    layer and head loses other tokens, so that few tokens are gone from all of them. Every event
    draws again, so an old entry, which has survived more draws, is rarer than a young one. Where
    the prompt matters, protect it: `Budget(prompt=True)`.

    With `fresh=False` it is a function of the seed, head and position: an entry has one value at
    all events, every layer keeps the same tokens, and old entries are kept as often as young ones.

    Both are the same in every batch and on every device. Two sequences that have seen the same
    number of tokens get the same noise.

    Source: arXiv 2609.03430 for fresh noise, with the prompt and 64 recent tokens kept.

    Args:
        seed: any integer; the low 32 bits are used.
        fresh: whether layers and events draw their own noise.

    Example:
        >>> Random(seed=3)
        Random(seed=3, fresh=True)
    """

    seed: int = attrs.field(default=0, validator=is_a(int))
    fresh: bool = attrs.field(default=True, validator=is_a(bool))

    def score(self, view: CacheView) -> Float[Tensor, "R H L"]:
        """A hash of what the noise is a function of, as a number in [0, 1)."""
        device = view.positions.device
        heads = torch.arange(view.positions.shape[1], device=device)[:, None]  # [H, 1]
        bits = _mixed(torch.tensor(self.seed & _BITS, device=device))
        if self.fresh:
            bits = _mixed(_mixed(bits ^ view.layers.long()) ^ view.seen.long())[:, None, None]
        bits = _mixed(_mixed(bits ^ heads) ^ view.positions.long())
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
