"""Keys that resemble many other keys say little new."""

import math

import attrs
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from skipkv._types import CacheView, Needs
from skipkv._validators import is_a
from skipkv.errors import ConfigError
from skipkv.scorers._near_copies import near_copies
from skipkv.scorers.algebra import ScorerAlgebra

# Similarities held at once on a CPU: a tile is read several times, from the cache if it fits.
_CACHED = 2**19
# Bytes of products held at once on an accelerator, at least: enough work for every launch.
_SCRATCH = 2**26


@attrs.frozen(kw_only=True)
class KeyRedundancy(ScorerAlgebra):
    """How much a key resembles the others of its row and head. High is redundant, so subtract it.

    It takes the cosine similarities of all entries (the window's too) with the diagonal set to 0.
    For each key the similarity to its newest near-copy is forgiven (set to 0). Then come the mean
    over keys and a softmax over all entries of the head. So in a chain of repetitions the newest
    copy gets a low value and stays; the older ones go.

    Args:
        threshold: similarity above which a key counts as a near-copy; in [0, 1).
        keep: which near-copy is forgiven: the "last" or the "first".
        tile: most keys compared with all others at a time, in slots. Memory grows with L and not
            with L * L. The value changes the result by rounding only.
        unrotated: compare keys as they were before RoPE. After it, keys of one token at distant
            positions differ by their distance too, so that repetitions far apart go unnoticed.
            It takes the memory of one more copy of the keys in float32.

    On an accelerator tiles are as large as suits it, and keys in bfloat16 are compared on its
    matrix units, as they are and with sums in float32. The sums themselves are in float32.

    Raises:
        ConfigError: `threshold`, `keep` or `tile` outside their ranges.

    Source: R-KV (arXiv 2505.24133); SkipKV's published code for the details: a key
    without a near-copy forgives the first entry, and the mean counts every key of the head.

    Differs: `keep="first"` is SkipKV's. R-KV's own code takes the minimum over an index array that
    holds 0 where there is no near-copy, so it always forgives the first entry.

    Example:
        >>> from skipkv.scorers import Recency
        >>> 0.1 * Recency() - 0.9 * KeyRedundancy(threshold=0.5)
        0.1 * Recency() - 0.9 * KeyRedundancy(threshold=0.5, keep='last', tile=64, unrotated=False)
    """

    threshold: float = attrs.field(default=0.5, validator=is_a(float))
    keep: str = attrs.field(default="last")
    tile: int = attrs.field(default=64, validator=is_a(int))
    unrotated: bool = attrs.field(default=False, validator=is_a(bool))

    def __attrs_post_init__(self) -> None:
        if not 0 <= self.threshold < 1:
            raise ConfigError(
                f"KeyRedundancy(threshold={self.threshold}) must lie in [0, 1): it is a cosine "
                "similarity, and above it two keys count as near-copies. R-KV uses 0.5."
            )
        if self.keep not in ("last", "first"):
            raise ConfigError(
                f"KeyRedundancy(keep={self.keep!r}) must be 'last' or 'first': the near-copy whose "
                "similarity is forgiven."
            )
        if self.tile < 1:
            raise ConfigError(
                f"KeyRedundancy(tile={self.tile}) must be at least 1: it is the number of keys "
                "compared with all others at a time."
            )

    @property
    def needs(self) -> Needs:
        """The rotation, if keys are compared as they were before it."""
        return Needs(rotary=self.unrotated)

    def score(self, view: CacheView) -> Float[Tensor, "R H L"]:
        """Softmax over the entries of each row and head of their mean similarity to the others."""
        empty = ~view.occupied
        keys = view.unrotated_keys if self.unrotated else view.keys
        heads = keys.flatten(0, 1), empty.flatten(0, 1)
        if keys.device.type == "cpu":
            total = self._held_against(*heads)
        else:
            total = held_against(*heads, self.threshold, keep=self.keep)
        mean = total.view_as(empty) / (~empty).sum(dim=-1, keepdim=True).clamp_min(1)
        # a head without entries gets finite numbers, which are not read
        filled = mean.masked_fill(empty, torch.finfo(torch.float32).min)
        return filled.softmax(dim=-1)

    def _held_against(
        self, keys: Float[Tensor, "N L D"], empty: Bool[Tensor, "N L"]
    ) -> Float[Tensor, "N L"]:
        """The sum of each key's similarities to the others of its head, without the forgiven."""
        step, tile = self._tiles(keys)
        total = torch.empty(empty.shape, device=keys.device)
        room = total.new_empty(max(step * tile * keys.shape[1], keys.shape[2]))
        for start in range(0, len(total), step):
            some = slice(start, start + step)
            unit = _unit(keys[some], empty[some])
            total[some] = _sums(unit) - _forgiven(unit, self._copies(unit, tile, room), room)
        return total

    def _tiles(self, keys: Float[Tensor, "N L D"]) -> tuple[int, int]:
        """Heads and keys compared at a time: as many as fit a cache and twice the keys' memory."""
        number, slots, size = keys.shape
        spare = int(1.3 * number * size)  # numbers per slot; the view and its scores have the rest
        each = size + 8  # of a head: its keys at length 1, what they are held against, and indices
        tile = max(1, min(self.tile, slots, spare - each))
        step = max(1, min(number, spare // (tile + each)))
        tile = max(1, min(tile, _CACHED // slots))
        return max(1, min(step, _CACHED // (tile * slots))), tile

    def _copies(
        self, unit: Float[Tensor, "n L D"], tile: int, room: Float[Tensor, "M"]
    ) -> Int[Tensor, "n L"]:
        """The slot of the near-copy that each key forgives; slot 0 where it has none.

        Args:
            unit: keys of length 1.
            tile: keys compared with all others at a time.
            room: scratch memory.
        """
        number, slots, _ = unit.shape
        slot = torch.arange(slots, dtype=torch.float32, device=unit.device)
        rank = slot if self.keep == "last" else slots - slot
        highest = unit.new_empty(number, slots)
        for start in range(0, slots, tile):
            some = unit[:, start : start + tile]
            shape = number, some.shape[1], slots
            similar = room[: math.prod(shape)].view(shape)
            torch.bmm(some, unit.mT, out=similar)
            similar.diagonal(start, dim1=-2, dim2=-1).zero_()
            near = similar.gt_(self.threshold)
            torch.amax(near.mul_(rank), dim=-1, out=highest[:, start : start + tile])
        copies = highest.long()
        if self.keep == "first":
            copies = (slots - copies) % slots
        return copies


def held_against(
    keys: Float[Tensor, "N L D"], empty: Bool[Tensor, "N L"], threshold: float, *, keep: str
) -> Float[Tensor, "N L"]:
    """The sum of each key's similarities to the others, without the forgiven: for accelerators.

    The same numbers as on a CPU, up to rounding, in few large operations.

    Args:
        keys: keys of `N` heads.
        empty: slots without an entry.
        threshold: as in `KeyRedundancy`.
        keep: as in `KeyRedundancy`.
    """
    norms = torch.linalg.vector_norm(keys, dim=-1, dtype=torch.float32).add_(1e-8)
    inverse = norms.reciprocal().masked_fill_(empty, 0.0)
    norms.masked_fill_(empty, 0.0)
    scratch = max(_SCRATCH, 2 * keys.numel() * keys.element_size())
    copies = near_copies(keys, norms, threshold, keep=keep, scratch=scratch)
    unit = keys * inverse[..., None]  # float32
    room = unit.new_empty(max(unit.numel() // 4, keys.shape[2]))
    return _sums(unit) - _forgiven(unit, copies, room)


def _sums(unit: Float[Tensor, "n L D"]) -> Float[Tensor, "n L"]:
    """The sum of each key's similarities to all others: the sum of u.v over v is u.(sum of v)."""
    own: Tensor = torch.linalg.vector_norm(unit, dim=-1).square_()
    return torch.bmm(unit, unit.sum(dim=1)[..., None])[..., 0] - own


def _forgiven(
    unit: Float[Tensor, "n L D"], copies: Int[Tensor, "n L"], room: Float[Tensor, "M"]
) -> Float[Tensor, "n L"]:
    """For each key the sum of the similarities that other keys forgive it.

    Args:
        unit: keys of length 1.
        copies: for each key the slot of the key that it forgives.
        room: scratch memory.
    """
    number, slots, size = unit.shape
    keys = unit.view(-1, size)
    heads = torch.arange(number, device=unit.device)[:, None] * slots
    copy = (copies + heads).flatten()
    similar = unit.new_empty(len(keys))
    some = len(room) // size
    for start in range(0, len(keys), some):
        part = slice(start, start + some)
        other = room[: copy[part].numel() * size].view(-1, size)
        torch.index_select(keys, 0, copy[part], out=other)
        torch.sum(other.mul_(keys[part]), dim=-1, out=similar[part])
    own = copies == torch.arange(slots, device=unit.device)
    similar = similar.view(number, slots).masked_fill_(own, 0.0)  # not with itself
    if keys.device.type == "cpu":
        return torch.zeros_like(similar).scatter_add_(1, copies, similar)
    # An accelerator adds in no fixed order. Sums in float64 round to the same float32.
    exact = similar.double()
    return torch.zeros_like(exact).scatter_add_(1, copies, exact).float()


def _unit(keys: Float[Tensor, "n L D"], empty: Bool[Tensor, "n L"]) -> Float[Tensor, "n L D"]:
    """Keys of length 1, in float32; an empty slot becomes the zero vector, similar to nothing."""
    filled = keys.float().masked_fill(empty[..., None], 0.0)
    norm: Tensor = torch.linalg.vector_norm(filled, dim=-1, keepdim=True)
    return filled.div_(norm + 1e-8)
