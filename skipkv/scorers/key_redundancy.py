"""Keys that resemble many other keys say little new."""

import attrs
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from skipkv._types import CacheView
from skipkv._validators import is_a
from skipkv.errors import ConfigError
from skipkv.scorers.algebra import ScorerAlgebra

# Similarities held at once on a CPU: a tile is read several times, from the cache if it fits.
_CACHED = 2**19


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
        tile: keys compared with all others at a time, in slots, at most. Memory grows with L, never
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

    threshold: float = attrs.field(default=0.5, validator=is_a(float))
    keep: str = attrs.field(default="last")
    tile: int = attrs.field(default=64, validator=is_a(int))

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
        rows, heads, slots, _ = view.keys.shape
        keys = view.keys.flatten(0, 1)  # [N L D], N = R * H
        empty = ~view.occupied
        total = torch.empty(rows * heads, slots, device=keys.device)
        step, tile = self._tiles(keys)
        similar = total.new_empty(step, tile, slots)
        near = torch.empty_like(similar)
        for start in range(0, len(total), step):
            some = slice(start, start + step)
            self._sum_similarities(
                _unit(keys[some], empty.flatten(0, 1)[some]), total[some], similar, near
            )
        mean = total.view(rows, heads, slots) / (~empty).sum(dim=-1, keepdim=True).clamp_min(1)
        # what is left of a head without entries is finite, and nobody reads it
        filled = mean.masked_fill(empty, torch.finfo(torch.float32).min)
        return filled.softmax(dim=-1)

    def _tiles(self, keys: Float[Tensor, "N L D"]) -> tuple[int, int]:
        """Heads and keys compared at a time: what fits a cache, and is smaller than the keys."""
        number, slots, _ = keys.shape
        room = keys.numel() // 2
        if keys.device.type == "cpu":
            room = min(room, _CACHED)
        tile = max(1, min(self.tile, slots, room // slots))
        return max(1, min(number, room // (tile * slots))), tile

    def _sum_similarities(
        self,
        unit: Float[Tensor, "n L D"],
        total: Float[Tensor, "n L"],
        similar: Float[Tensor, "N tile L"],
        near: Float[Tensor, "N tile L"],
    ) -> None:
        """Sum every key's similarities to the others that are not forgiven, into `total`.

        Args:
            unit: keys of length 1.
            total: what to fill.
            similar: room to work in.
            near: room to work in.
        """
        number, slots, _ = unit.shape
        # all of them at once: the sum over i of u_i.u_j is (the sum over i of u_i).u_j
        torch.bmm(unit, unit.sum(dim=1)[..., None], out=total[..., None])
        total -= torch.linalg.vector_norm(unit, dim=-1).square_()
        # a key without a near-copy points to slot 0, from either end
        slot = torch.arange(slots, dtype=torch.float32, device=unit.device)
        rank = slot if self.keep == "last" else slots - slot
        for start in range(0, slots, similar.shape[1]):
            some = unit[:, start : start + similar.shape[1]]
            tile, found = similar[:number, : some.shape[1]], near[:number, : some.shape[1]]
            torch.bmm(some, unit.mT, out=tile)
            tile.diagonal(start, dim1=-2, dim2=-1).zero_()
            torch.gt(tile, self.threshold, out=found)
            forgiven = found.mul_(rank).amax(dim=-1, keepdim=True).long()  # [n tile 1]
            if self.keep == "first":
                forgiven = (slots - forgiven) % slots
            total.scatter_add_(-1, forgiven[..., 0], -tile.gather(-1, forgiven)[..., 0])


def _unit(keys: Float[Tensor, "n L D"], empty: Bool[Tensor, "n L"]) -> Float[Tensor, "n L D"]:
    """Keys of length 1, in float32; an empty slot becomes the zero vector, similar to nothing."""
    filled = keys.float().masked_fill(empty[..., None], 0.0)
    norm: Tensor = torch.linalg.vector_norm(filled, dim=-1, keepdim=True)
    return filled.div_(norm + 1e-8)
