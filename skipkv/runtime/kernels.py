"""Attention of one query per row over heads with different numbers of entries.

A step of fixed shapes attends to the whole capacity, and each head fills the first part of it.
Torch has several ways to compute that. Which is fastest depends on the device, its libraries and
the shape. So `fastest` measures them on accelerators.
"""

import inspect
import time
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, cast

import torch
from jaxtyping import Float, Int
from torch import Tensor

Kernel = Callable[[Tensor, Tensor, Tensor, Tensor, Tensor, float], Tensor]
"""query [B H G D], keys and values [B H L D], bias [B H 1 L], lengths [B H], scale -> [B H G D]."""


def sdpa(
    query: Float[Tensor, "B H G D"],
    key: Float[Tensor, "B H L D"],
    value: Float[Tensor, "B H L D"],
    bias: Float[Tensor, "B H 1 L"],
    lengths: Int[Tensor, "B H"],
    scale: float,
) -> Float[Tensor, "B H G D"]:
    """Torch's fused attention with the bias as its mask."""
    fused: Tensor = torch.nn.functional.scaled_dot_product_attention(
        query, key, value, attn_mask=bias, scale=scale
    )
    return fused


def matmul(
    query: Float[Tensor, "B H G D"],
    key: Float[Tensor, "B H L D"],
    value: Float[Tensor, "B H L D"],
    bias: Float[Tensor, "B H 1 L"],
    lengths: Int[Tensor, "B H"],
    scale: float,
) -> Float[Tensor, "B H G D"]:
    """Two products with a float32 softmax between them."""
    weights = ((query @ key.mT).float() * scale + bias).softmax(dim=-1)
    product: Tensor = weights.to(value.dtype) @ value
    return product


def varlen(
    query: Float[Tensor, "B H G D"],
    key: Float[Tensor, "B H L D"],
    value: Float[Tensor, "B H L D"],
    bias: Float[Tensor, "B H 1 L"],
    lengths: Int[Tensor, "B H"],
    scale: float,
) -> Float[Tensor, "B H G D"]:
    """Torch's attention over packed sequences: each KV head is one, and no empty slot is read.

    A torch with `enable_gqa` takes the query heads of a KV head as heads of one query. An older
    one (2.11) takes them as queries of one head. Each attends to all entries either way, so the
    result is the same.
    """
    from torch.nn.attention.varlen import varlen_attn

    batch, heads, groups, size = query.shape
    slots, number = key.shape[2], batch * heads
    ends = torch.arange(number + 1, dtype=torch.int32, device=query.device)
    grouped = "enable_gqa" in inspect.signature(varlen_attn).parameters
    queries = 1 if grouped else groups
    options: dict[str, Any] = {"enable_gqa": True} if grouped else {}
    output = varlen_attn(
        query.reshape(number * queries, groups // queries, size),
        key.reshape(-1, 1, size),
        value.reshape(-1, 1, size),
        ends * queries,
        ends * slots,
        queries,
        slots,
        scale=scale,
        seqused_k=lengths.flatten().to(torch.int32),
        **options,
    )
    return cast(Tensor, output).view(batch, heads, groups, size)


CANDIDATES: Mapping[str, Kernel] = {"sdpa": sdpa, "matmul": matmul, "varlen": varlen}


def fastest(
    keys: Float[Tensor, "B H L D"],
    groups: int,
    *,
    candidates: Mapping[str, Kernel] = CANDIDATES,
    seconds: Callable[[Callable[[], object]], float] | None = None,
) -> str:
    """The name of the fastest way to attend on this device with these shapes.

    A candidate that fails here, or whose result differs from that of `sdpa`, is left out.

    Args:
        keys: as the cache holds them, for their shape, strides, dtype and device; the numbers are
            not read.
        groups: query heads per KV head.
        candidates: the kernels to choose from; "sdpa" must be among them.
        seconds: measures a call; by default with a synchronized clock.
    """
    timed = seconds or (lambda call: _seconds(call, keys.device))
    batch, heads, slots, size = keys.shape
    random = torch.Generator(keys.device).manual_seed(0)

    def noise(*axes: int) -> Tensor:
        drawn = torch.randn(axes, generator=random, device=keys.device)
        return drawn.to(keys.dtype)

    query, values = noise(batch, heads, groups, size), noise(batch, heads, slots, size)
    trial = torch.empty_like(keys).copy_(noise(batch, heads, slots, size))
    lengths = torch.randint(1, slots + 1, (batch, heads), generator=random, device=keys.device)
    empty = torch.arange(slots, device=keys.device) >= lengths[..., None]
    bias = torch.zeros_like(empty, dtype=keys.dtype).masked_fill(empty, -torch.inf)[:, :, None]
    inputs = query, trial, values, bias, lengths, size**-0.5

    expected = sdpa(*inputs).float()
    best, lowest = "sdpa", timed(lambda: sdpa(*inputs))
    for name, kernel in candidates.items():
        if name == "sdpa":
            continue
        try:
            agrees = torch.allclose(kernel(*inputs).float(), expected, atol=2e-2, rtol=2e-2)
            took = timed(partial(kernel, *inputs)) if agrees else float("inf")
        except Exception:  # the kernel is not built for this device, dtype or head size
            continue
        if took < lowest:
            best, lowest = name, took
    return best


def _seconds(call: Callable[[], object], device: torch.device, times: int = 20) -> float:
    """How long a call takes, the device's work included."""

    def wait() -> None:
        if device.type != "cpu":
            torch.accelerator.synchronize(device)

    call()
    wait()
    start = time.perf_counter()
    for _ in range(times):
        call()
    wait()
    return (time.perf_counter() - start) / times
