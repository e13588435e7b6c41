"""Attention over the slot cache.

Grouped-query attention without repeating keys and values: the `G` query heads of a KV head are `G`
queries of that head.
"""

from collections.abc import Callable
from functools import partial

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from skipkv.runtime.store.forward import Prompts, SlotPrompts, Steps
from skipkv.runtime.store.softmax import PLAIN, Softmax, observed

Record = Callable[[Float[Tensor, "B H G t L"], slice], None]
"""Gets the attention weights of some columns of a pass."""


def attend(
    part: Prompts | Steps,
    layer: int,
    query: Float[Tensor, "B Q T D"],
    key: Float[Tensor, "B H L D"],
    value: Float[Tensor, "B H L D"],
    scale: float,
    softmax: Softmax = PLAIN,
    *,
    tile: int = 128,
) -> Float[Tensor, "B T Q D"]:
    """Attention of one layer in a forward pass.

    Args:
        part: the pass, as the layers of this kind and capacity know it.
        layer: the index of the layer among these.
        query: queries of the new tokens; `Q` is `H * G` query heads.
        key: the keys that the rows hold.
        value: the values that the rows hold.
        scale: factor of the logits.
        softmax: how logits become weights.
        tile: queries at a time where a part needs the attention weights, which the fused kernel
            does not give.
    """
    batch, heads, _, size = key.shape
    columns = query.shape[2]
    if isinstance(part, Steps):
        one = part.attend(layer, query.view(batch, heads, -1, size), key, value, scale, softmax)
        return one.reshape(batch, 1, -1, size)
    grouped = query.view(batch, heads, -1, columns, size)  # [B H G T D]
    record = None
    if isinstance(part, SlotPrompts):
        part.observe(layer, observed(grouped, scale), softmax)
        record = partial(part.add_attention, layer) if part.weighs else None
    return _prompt(grouped, key, value, part.mask(layer), scale, softmax, record, tile)


def _prompt(
    query: Float[Tensor, "B H G T D"],
    key: Float[Tensor, "B H L D"],
    value: Float[Tensor, "B H L D"],
    mask: Bool[Tensor, "B #H T L"],
    scale: float,
    softmax: Softmax,
    record: Record | None,
    tile: int,
) -> Float[Tensor, "B T Q D"]:
    """Attention of a pass over prompts; `record` gets the weights of each tile of queries."""
    if softmax.plain and record is None:
        output = _fused_attention(query, key, value, mask, scale)
    else:
        output = _seen_attention(query, key, value, mask, scale, softmax, record, tile)
    # [B H G T D] -> [B T Q D]
    batch, _, _, columns, size = query.shape
    return output.reshape(batch, -1, columns, size).transpose(1, 2).contiguous()


def _fused_attention(
    query: Float[Tensor, "B H G T D"],
    key: Float[Tensor, "B H L D"],
    value: Float[Tensor, "B H L D"],
    mask: Bool[Tensor, "B #H T L"],
    scale: float,
) -> Float[Tensor, "B H G T D"]:
    groups, columns = query.shape[2:4]
    repeated = mask[:, :, None].expand(-1, -1, groups, -1, -1).flatten(2, 3)
    output = torch.nn.functional.scaled_dot_product_attention(
        query.flatten(2, 3), key, value, attn_mask=repeated, scale=scale
    )
    batch, heads, _, size = output.shape
    return output.view(batch, heads, groups, columns, size)


def _seen_attention(
    query: Float[Tensor, "B H G T D"],
    key: Float[Tensor, "B H L D"],
    value: Float[Tensor, "B H L D"],
    mask: Bool[Tensor, "B #H T L"],
    scale: float,
    softmax: Softmax,
    record: Record | None,
    tile: int,
) -> Float[Tensor, "B H G T D"]:
    """Attention with the weights at hand: a tile of queries at a time."""
    outputs = []
    for start in range(0, query.shape[3], tile):
        columns = slice(start, start + tile)
        output, weights = softmax.attend(
            query[..., columns, :], key, value, mask[:, :, None, columns], scale
        )
        if record is not None:
            record(weights, columns)
        outputs.append(output)
    return torch.cat(outputs, dim=3)
