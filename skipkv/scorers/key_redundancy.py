"""Keys that resemble many other keys say little new."""

import attrs
import torch
from attrs.validators import instance_of
from jaxtyping import Float
from torch import Tensor

from skipkv._types import CacheView
from skipkv.errors import ConfigError
from skipkv.scorers.algebra import ScorerAlgebra


@attrs.frozen(kw_only=True)
class KeyRedundancy(ScorerAlgebra):
    """How much a key resembles the others of its row and head; high is redundant: subtract it.

    The cosine similarities of all entries, the window's too, with the diagonal zeroed; for each
    key the similarity to its newest near-copy is forgiven (zeroed); the mean over keys, and a
    softmax over all entries of the head. So of a chain of repetitions the newest copy stays cheap
    and the older ones go.

    Args:
        threshold: similarity above which a key counts as a near-copy; in [0, 1).
        keep: which near-copy is forgiven: the "last" or the "first".
        tile: keys compared with all others at a time, in slots. Memory grows with tile * L, never
            with L * L; the value does not change the outcome but for rounding.

    Raises:
        ConfigError: `threshold`, `keep` or `tile` outside their ranges.

    Source: R-KV (arXiv 2505.24133); SkipKV's published code for the details: a key
    without a near-copy forgives the first entry, and the mean counts every key of the head.

    Differs: `keep="first"` is SkipKV's. R-KV's own code takes the minimum over an index array that
    holds 0 where there is no near-copy, so it always forgives the first entry.

    Example:
        >>> from skipkv.scorers import Recency
        >>> 0.1 * Recency() - 0.9 * KeyRedundancy(threshold=0.5)
        0.1 * Recency() - 0.9 * KeyRedundancy(threshold=0.5, keep='last', tile=64)
    """

    threshold: float = attrs.field(default=0.5, validator=instance_of((int, float)))
    keep: str = attrs.field(default="last")
    tile: int = attrs.field(default=64, validator=instance_of(int))

    def __attrs_post_init__(self) -> None:
        if not 0 <= self.threshold < 1:
            raise ConfigError(
                f"KeyRedundancy(threshold={self.threshold}) must lie in [0, 1): it is a cosine "
                "similarity, and above it two keys count as near-copies. R-KV uses 0.5."
            )
        if self.keep not in ("last", "first"):
            raise ConfigError(
                f"KeyRedundancy(keep={self.keep!r}) must be 'last' or 'first': the near-copy that "
                "is not held against a key."
            )
        if self.tile < 1:
            raise ConfigError(
                f"KeyRedundancy(tile={self.tile}) must be at least 1: it is the number of keys "
                "compared with all others at a time."
            )

    def score(self, view: CacheView) -> Float[Tensor, "R H L"]:
        """Softmax over the entries of each row and head of their mean similarity to the others."""
        # an empty slot becomes the zero vector: similar to nothing, near-copy of nothing
        keys = view.keys.float().masked_fill(~view.occupied[..., None], 0.0)
        norm: Tensor = torch.linalg.vector_norm(keys, dim=-1, keepdim=True)
        unit = keys / (norm + 1e-8)
        slots = unit.shape[2]
        total = unit.new_zeros(unit.shape[:3])
        for start in range(0, slots, self.tile):
            similarity = unit[:, :, start : start + self.tile] @ unit.mT  # [R, H, tile, L]
            similarity.diagonal(start, dim1=-2, dim2=-1).zero_()
            similarity.scatter_(-1, self._forgiven(similarity), 0.0)
            total += similarity.sum(dim=-2)
        mean = total / view.occupied.sum(dim=-1, keepdim=True).clamp_min(1)
        # what is left of a head without entries is finite, and nobody reads it
        filled = mean.masked_fill(~view.occupied, torch.finfo(torch.float32).min)
        return filled.softmax(dim=-1)

    def _forgiven(self, similarity: Float[Tensor, "R H N L"]) -> Tensor:
        """Slot of the near-copy forgiven for each key, [R, H, N, 1]; 0 where it has none."""
        slots = similarity.shape[-1]
        numbers = torch.arange(slots, dtype=torch.int32, device=similarity.device)
        if self.keep == "first":
            numbers = slots - numbers  # the largest number is now the first slot
        found = ((similarity > self.threshold) * numbers).amax(dim=-1, keepdim=True).long()
        return found if self.keep == "last" else (slots - found) % slots
