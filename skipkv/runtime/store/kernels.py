"""Attention of one query per row over heads with different numbers of entries.

A step of fixed shapes attends to the whole capacity, and each head fills the first part of it.
Torch has several ways to compute that. Which is fastest depends on the device, its libraries and
the shape. So `fastest` measures them on accelerators.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from functools import cache, partial
from typing import Any, cast

import torch
from jaxtyping import Float, Int
from torch import Tensor

Kernel = Callable[[Tensor, Tensor, Tensor, Tensor, Tensor, float], Tensor]
"""query [B H G D], keys and values [B H L D], bias [B H 1 L], lengths [B H], scale -> [B H G D]."""

Layers = Sequence[tuple[Float[Tensor, "B H L D"], Float[Tensor, "B H L D"]]]
"""Keys and values of some layers."""


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

    It needs a torch whose `varlen_attn` takes `enable_gqa` and `seqused_k` (2.11 takes neither).
    """
    from torch.nn.attention.varlen import varlen_attn

    batch, heads, groups, size = query.shape
    slots, number = key.shape[2], batch * heads
    output = varlen_attn(
        query.reshape(number, groups, size),
        key.reshape(-1, 1, size),
        value.reshape(-1, 1, size),
        _ends(number, 1, query.device),
        _ends(number, slots, query.device),
        1,
        slots,
        scale=scale,
        enable_gqa=True,
        seqused_k=lengths.flatten().to(torch.int32),
    )
    return cast(Tensor, output).view(batch, heads, groups, size)


def flash(
    query: Float[Tensor, "B H G D"],
    key: Float[Tensor, "B H L D"],
    value: Float[Tensor, "B H L D"],
    bias: Float[Tensor, "B H 1 L"],
    lengths: Int[Tensor, "B H"],
    scale: float,
) -> Float[Tensor, "B H G D"]:
    """The operator inside `varlen`, which torch 2.11 has too.

    It splits a long cache over the device where a KV head has one query with several heads.
    """
    batch, heads, groups, size = query.shape
    slots, number = key.shape[2], batch * heads
    output, *_ = torch.ops.aten._flash_attention_forward(
        query.reshape(number, groups, size),
        key.reshape(-1, 1, size),
        value.reshape(-1, 1, size),
        _ends(number, 1, query.device),
        _ends(number, slots, query.device),
        1,
        slots,
        0.0,
        False,
        False,
        scale=scale,
        seqused_k=lengths.flatten().to(torch.int32),
    )
    return cast(Tensor, output).view(batch, heads, groups, size)


@cache
def _ends(number: int, step: int, device: torch.device) -> Int[Tensor, "N"]:
    """Where sequences of `step` tokens begin and end. It is kept, since recorded steps read it."""
    with torch.inference_mode(False):
        return torch.arange(number + 1, dtype=torch.int32, device=device) * step


CANDIDATES: Mapping[str, Kernel] = {
    "sdpa": sdpa,
    "matmul": matmul,
    "varlen": varlen,
    "flash": flash,
}


def fastest(layers: Layers, groups: int, **options: Any) -> str:
    """The name of the fastest way to attend on this device with these shapes.

    Args:
        layers: as for `trial`.
        groups: as for `trial`.
        options: as for `trial`.
    """
    found = trial(layers, groups, **options)
    seconds = {name: took for name, took in found.items() if not isinstance(took, str)}
    return min(seconds, key=lambda name: seconds[name])


def trial(
    layers: Layers,
    groups: int,
    *,
    candidates: Mapping[str, Kernel] = CANDIDATES,
    seconds: Callable[[Callable[[], object]], float] | None = None,
) -> dict[str, float | str]:
    """The seconds that each way to attend takes; or why it cannot be taken.

    A candidate that fails here, or whose result differs from that of `sdpa`, is left out. Where
    heads differ in length is part of the trial. A call attends with one layer after the other, so
    that it reads from memory and not from a cache of the device.

    Args:
        layers: keys and values of some layers, as the cache holds them. They are only read.
        groups: query heads per KV head.
        candidates: the kernels to choose from; "sdpa" must be among them.
        seconds: measures a call; by default on the device, as a recorded graph where there are any.
    """
    keys = layers[0][0]
    timed = seconds or (lambda call: _seconds(call, keys.device))
    batch, heads, slots, size = keys.shape
    random = torch.Generator(keys.device).manual_seed(0)
    place: Any = {"generator": random, "device": keys.device}

    def noise(*axes: int) -> Tensor:
        return torch.randn(axes, dtype=keys.dtype, **place)

    def limits(lengths: Int[Tensor, "B H"]) -> tuple[Tensor, Tensor]:
        empty = torch.arange(slots, device=keys.device) >= lengths[..., None]
        bias = torch.zeros_like(empty, dtype=keys.dtype).masked_fill(empty, -torch.inf)
        return bias[:, :, None], lengths.int()

    query, scale = noise(batch, heads, groups, size), size**-0.5
    trial_keys, trial_values = noise(*keys.shape), noise(*keys.shape)
    uneven = limits(torch.randint(1, slots + 1, (batch, heads), **place))
    # as between two events: the cache is nearly full
    full = limits(torch.randint(slots - slots // 8, slots + 1, (batch, heads), **place))

    def attend(kernel: Kernel) -> None:
        for some_keys, some_values in layers:
            kernel(query, some_keys, some_values, *full, scale)

    expected = sdpa(query, trial_keys, trial_values, *uneven, scale).float()
    found: dict[str, float | str] = {}
    for name, kernel in candidates.items():
        try:
            output = kernel(query, trial_keys, trial_values, *uneven, scale).float()
            if torch.allclose(output, expected, atol=2e-2, rtol=2e-2):
                found[name] = timed(partial(attend, kernel))
            else:
                found[name] = "its result differs from that of sdpa"
        except Exception as error:  # the kernel is not built for this device, dtype or head size
            found[name] = f"{type(error).__name__}: {error}"
    if isinstance(found["sdpa"], str):  # what it is compared with needs no time to be chosen
        found["sdpa"] = float("inf")
    return found


def _seconds(call: Callable[[], object], device: torch.device, times: int = 20) -> float:
    """How long a call takes. On CUDA it is recorded, as steps are: the host launches slowly."""
    call()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            call()
        call = graph.replay
        call()

    def wait() -> None:
        if device.type != "cpu":
            torch.accelerator.synchronize(device)

    wait()
    start = time.perf_counter()
    for _ in range(times):
        call()
    wait()
    return (time.perf_counter() - start) / times
