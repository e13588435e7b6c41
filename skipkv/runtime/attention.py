"""Attention over the slot cache.

Grouped-query attention without repeating keys and values: the `G` query heads of a KV head are `G`
queries of that head.
"""

import torch
from jaxtyping import Float
from torch import Tensor

from skipkv.runtime.decode import DecodeForward
from skipkv.runtime.forward import Forward, PromptForward
from skipkv.runtime.softmax import PLAIN, Softmax, observed

# Queries per tile where a part needs the attention weights, which the fused kernel does not give.
_TILE = 128


def attend(
    forward: Forward,
    layer: int,
    query: Float[Tensor, "B Q T D"],
    key: Float[Tensor, "B H L D"],
    value: Float[Tensor, "B H L D"],
    scale: float,
    softmax: Softmax = PLAIN,
) -> Float[Tensor, "B T Q D"]:
    """Attention of one layer in a forward pass.

    Args:
        forward: the pass.
        layer: of the store.
        query: queries of the new tokens; `Q` is `H * G` query heads.
        key: the keys that the rows hold.
        value: the values that the rows hold.
        scale: factor of the logits.
        softmax: how logits become weights.
    """
    batch, heads, _, size = key.shape
    columns = query.shape[2]
    if isinstance(forward, DecodeForward):
        grouped = query.view(batch, heads, -1, size)
        one = forward.attend(layer, grouped, key, value, scale, softmax)
        return one.reshape(batch, 1, -1, size)
    grouped = query.view(batch, heads, -1, columns, size)  # [B H G T D]
    forward.observe(layer, observed(grouped, scale))
    if forward.store.attention is not None or not softmax.plain:
        output = _seen_attention(forward, layer, grouped, key, value, scale, softmax)
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
    softmax: Softmax,
) -> Float[Tensor, "B H G T D"]:
    """Attention with the weights at hand: a tile at a time, with a float32 softmax.

    The weights are recorded where a part needs them.
    """
    mask = forward.mask(layer)
    outputs = []
    for start in range(0, query.shape[3], _TILE):
        tile = slice(start, start + _TILE)
        logits = torch.einsum("bhgtd,bhld->bhgtl", query[..., tile, :], key).float() * scale
        logits = softmax.cap(logits).masked_fill(~mask[:, :, None, tile], -torch.inf)
        weights = softmax.weights(logits)
        if forward.store.attention is not None:
            forward.add_attention(layer, weights, tile)
        outputs.append(torch.einsum("bhgtl,bhld->bhgtd", weights.to(value.dtype), value))
    return torch.cat(outputs, dim=3)
