"""Attention over the slot cache, registered with transformers under the name "skipkv".

Grouped-query attention without repeating keys and values: the `G` query heads of a KV head are `G`
queries of that head.
"""

from typing import Any, cast

import torch
from jaxtyping import Float
from torch import Tensor
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from skipkv.runtime.decode import DecodeForward
from skipkv.runtime.forward import Forward, PromptForward

NAME = "skipkv"
# The key of the forward pass among the keyword arguments that models hand down to attention.
FORWARD = "skipkv_forward"
# Queries per tile where attention weights must be seen, which takes them out of the fused kernel.
_TILE = 128


def register() -> None:
    """Make the attention known to transformers. Harmless to repeat."""
    AttentionInterface.register(NAME, attention_forward)
    AttentionMaskInterface.register(NAME, mask_function)


def mask_function(*args: Any, **kwargs: Any) -> Tensor | None:
    """None for full attention, whose mask the cache knows; the stock one for a local window."""
    return None if kwargs.get("local_size") is None else sdpa_mask(*args, **kwargs)


def attention_forward(
    module: torch.nn.Module,
    query: Float[Tensor, "B Q T D"],
    key: Float[Tensor, "B H L D"],
    value: Float[Tensor, "B H L D"],
    attention_mask: Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    **kwargs: Any,
) -> tuple[Float[Tensor, "B T Q D"], None]:
    """The signature of transformers' attention functions; `Q` is `H * G` query heads."""
    forward: Forward | None = kwargs.pop(FORWARD, None)
    layer = None if forward is None else forward.layers.get(cast(int, module.layer_idx))
    if forward is None or layer is None:  # a layer that keeps a cache of its own
        return sdpa_attention_forward(
            module, query, key, value, attention_mask, scaling=scaling, dropout=dropout, **kwargs
        )
    batch, heads, _, size = key.shape
    scale = size**-0.5 if scaling is None else scaling
    if isinstance(forward, DecodeForward):
        one = forward.attend(layer, query.view(batch, heads, -1, size), key, value, scale)
        return one.reshape(batch, 1, -1, size), None
    columns = query.shape[2]
    grouped = query.view(batch, heads, -1, columns, size)  # [B H G T D]
    forward.observe(layer, grouped)
    if forward.store.attention is not None:
        output = _seen_attention(forward, layer, grouped, key, value, scale)
    else:
        output = _fused_attention(forward, layer, grouped, key, value, scale)
    # [B H G T D] -> [B T Q D]
    return output.reshape(batch, -1, columns, size).transpose(1, 2).contiguous(), None


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
    """The same with the weights in hand, a tile of queries at a time; softmax in float32."""
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
