"""Near-copies among keys, found with batched matrix products, for accelerators."""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

# Slots are looked at in chunks: as many truth values as fill an int64.
_CHUNK = 8
# A float32 number is the sum of three bfloat16 numbers: of its leading, middle and last bits.
_PARTS = 3
# Numbers appended to a key: one for every pair of parts, and zeros up to a size that matrix units
# like.
_APPENDED = 16


def near_copies(
    keys: Float[Tensor, "N L D"],
    norms: Float[Tensor, "N L"],
    threshold: float,
    *,
    keep: str,
    scratch: int,
) -> Int[Tensor, "N L"]:
    """The slot of the last or first other key of its head that each key is a near-copy of.

    A key is a near-copy of another if their product exceeds `threshold` times both norms. This
    limit is a product too, so it goes into the same sum: a key gets `threshold` times its norm
    appended, and the other one its negative norm. The sign of the product then says whether they
    are near-copies. Keys in bfloat16 are multiplied as they are, with sums in float32. Only the
    sign is read, so the result may be rounded to bfloat16. Keys of another dtype are multiplied in
    float32.

    Args:
        keys: keys of `N` heads; those of empty slots are finite.
        norms: their norms in float32; 0 in an empty slot, which is near to nothing.
        threshold: cosine similarity above which two keys are near-copies; at least 0.
        keep: "last" or "first".
        scratch: bytes for products at a time; at least one row of products is computed.

    Returns:
        The slot; 0 for a key that is no near-copy.
    """
    number, slots, _ = keys.shape
    wide = -slots % _CHUNK + slots
    dtype = keys.dtype if keys.dtype == torch.bfloat16 else torch.float32
    per_row = wide * (dtype.itemsize + 1)
    tile = max(1, min(slots, scratch // per_row))
    heads = max(1, min(number, scratch // (per_row * tile)))
    copies = torch.empty(number, slots, dtype=torch.long, device=keys.device)
    ours, others = _with_limits(keys, norms, threshold, dtype, wide)
    for start in range(0, number, heads):
        some = slice(start, start + heads)
        for row in range(0, slots, tile):
            products = torch.bmm(ours[some, row : row + tile], others[some].mT)
            products.diagonal(row, dim1=-2, dim2=-1).zero_()
            copies[some, row : row + tile] = _found(products > 0, keep)
    return copies


def _with_limits(
    keys: Float[Tensor, "N L D"],
    norms: Float[Tensor, "N L"],
    threshold: float,
    dtype: torch.dtype,
    wide: int,
) -> tuple[Float[Tensor, "N L E"], Float[Tensor, "N M E"]]:
    """All keys with their limits, and the same keys as others, in `M = wide` slots."""
    number, slots, size = keys.shape
    ours = torch.zeros(number, slots, size + _APPENDED, dtype=dtype, device=keys.device)
    others = torch.zeros(number, wide, size + _APPENDED, dtype=dtype, device=keys.device)
    real = keys.masked_fill((norms == 0)[..., None], 0)
    ours[..., :size] = real
    others[:, :slots, :size] = real
    left, right = _parts(norms * threshold, dtype), _parts(-norms, dtype)  # [N L P]
    parts = left.shape[-1]
    pairs = slice(size, size + parts * parts)
    ours[..., pairs].unflatten(-1, (parts, parts)).copy_(left[..., :, None])
    others[:, :slots, pairs].unflatten(-1, (parts, parts)).copy_(right[..., None, :])
    return ours, others


def _parts(numbers: Float[Tensor, "N L"], dtype: torch.dtype) -> Float[Tensor, "N L P"]:
    """Numbers of `dtype` whose sum is a float32 number."""
    if dtype == torch.float32:
        return numbers[..., None]
    parts = []
    for _ in range(_PARTS):
        parts.append(numbers.to(dtype))
        numbers = numbers - parts[-1].float()
    return torch.stack(parts, dim=-1)


def _found(near: Bool[Tensor, "n T M"], keep: str) -> Int[Tensor, "n T"]:
    """The last or first place that is true in each row, 0 where none is.

    The chunk is found first, with truth values compared eight at a time, and then the place in it.
    """
    chunks = near.unflatten(-1, (-1, _CHUNK))  # [n T M/8 8]
    chunk = _end(near.view(torch.int64) != 0, keep)  # [n T]
    inside = chunks.gather(2, chunk[..., None, None].expand(-1, -1, 1, _CHUNK))[:, :, 0]
    return chunk * _CHUNK + _end(inside, keep)


def _end(true: Bool[Tensor, "n T K"], keep: str) -> Int[Tensor, "n T"]:
    """The last or first true place; 0 where none is."""
    places = torch.arange(true.shape[-1], dtype=torch.int32, device=true.device)
    if keep == "last":
        return torch.where(true, places, 0).amax(dim=-1).long()
    first = torch.where(true, places, true.shape[-1]).amin(dim=-1).long()
    return first % true.shape[-1]
