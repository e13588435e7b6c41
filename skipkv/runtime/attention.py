"""Attention over the slot cache.

Grouped-query attention without repeating keys and values: the `G` query heads of a KV head are `G`
queries of that head.
"""

import torch
from jaxtyping import Float
from torch import Tensor

from skipkv.runtime.decode import DecodeForward
from skipkv.runtime.forward import Forward, PromptForward

# Queries per tile where a part needs the attention weights, which the fused kernel does not give.
_TILE = 128


def attend(
    forward: Forward,
    layer: int,
    query: Float[Tensor, "B Q T D"],
    key: Float[Tensor, "B H L D"],
    value: Float[Tensor, "B H L D"],
    scale: float,
) -> Float[Tensor, "B T Q D"]:
    """Attention of one layer in a forward pass.

    Args:
        forward: the pass.
        layer: of the store.
        query: queries of the new tokens; `Q` is `H * G` query heads.
        key: the keys that the rows hold.
        value: the values that the rows hold.
        scale: factor of the logits.
    """
    batch, heads, _, size = key.shape
    columns = query.shape[2]
    if isinstance(forward, DecodeForward):
        one = forward.attend(layer, query.view(batch, heads, -1, size), key, value, scale)
        return one.reshape(batch, 1, -1, size)
    grouped = query.view(batch, heads, -1, columns, size)  # [B H G T D]
    forward.observe(layer, grouped)
    if forward.store.attention is not None:
        output = _seen_attention(forward, layer, grouped, key, value, scale)
    else:
        output = _fused_attention(forward, layer, grouped, key, value, scale)
    # [B H G T D] -> [B T Q D]
    return output.reshape(batch, -1, columns, size).transpose(1, 2).contiguous()


def _fused_attention(
    forward: PromptForward,
    layer: int,
    query: Float[Tensor, "B H G T D"],
    key: Float[Tensor, "B H L D"],
    value: Float[Tensor, "B H L D"],
    scale: float,
) -> Float[Tensor, "B H G T D"]:
    groups, columns = query.shape[2:4]
    seen = forward.mask(layer)[:, :, None]  # [B #H 1 T L]
    mask = seen.expand(-1, -1, groups, -1, -1).flatten(2, 3)
    output = torch.nn.functional.scaled_dot_product_attention(
        query.flatten(2, 3), key, value, attn_mask=mask, scale=scale
    )
    batch, heads, _, size = output.shape
    return output.view(batch, heads, groups, columns, size)


def _seen_attention(
    forward: PromptForward,
    layer: int,
    query: Float[Tensor, "B H G T D"],
    key: Float[Tensor, "B H L D"],
    value: Float[Tensor, "B H L D"],
    scale: float,
) -> Float[Tensor, "B H G T D"]:
    """As `_fused_attention`, but records the weights: a tile at a time, with a float32 softmax."""
    mask = forward.mask(layer)
    outputs = []
    for start in range(0, query.shape[3], _TILE):
        tile = slice(start, start + _TILE)
        logits = torch.einsum("bhgtd,bhld->bhgtl", query[..., tile, :], key).float() * scale
        logits = logits.masked_fill(~mask[:, :, None, tile], -torch.inf)
        weights = logits.softmax(dim=-1)
        forward.add_attention(layer, weights, tile)
        outputs.append(torch.einsum("bhgtl,bhld->bhgtd", weights.to(value.dtype), value))
    return torch.cat(outputs, dim=3)
