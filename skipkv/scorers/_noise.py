"""Shared by scorers that draw: noise as a function of integers, the same on every device."""

import torch
from jaxtyping import Float, Int
from torch import Tensor

_BITS = 0xFFFF_FFFF
_LAST = 1 - 2**-24
"""The float32 next to 1."""


def bits_of(*numbers: Int[Tensor, "..."] | int, device: torch.device) -> Int[Tensor, "..."]:
    """32 bits, held in int64, from integers; every one of them changes all bits.

    Args:
        numbers: of which the low 32 bits are used; their shapes broadcast.
        device: where the bits are.
    """
    bits = torch.zeros((), dtype=torch.long, device=device)
    for number in numbers:
        low = number & _BITS  # of a Python integer too, which may be longer than 64 bits
        bits = _mixed(bits ^ torch.as_tensor(low, device=device).long())
    return bits


def uniform(bits: Int[Tensor, "*axes"]) -> Float[Tensor, "*axes"]:
    """A number in [0, 1) from 32 bits: 24 of them, as many as a float32 holds."""
    return (bits >> 8).float() / 2**24


def gumbel(bits: Int[Tensor, "*axes"]) -> Float[Tensor, "*axes"]:
    """Gumbel noise from 32 bits: the highest of log(w) + noise is a draw in proportion to w."""
    # half a step is added, so that 0 has a logarithm; the last number would be rounded to 1
    inside = (uniform(bits) + 2**-25).clamp_max(_LAST)
    return -(-inside.log()).log()


def normal(bits: Int[Tensor, "*axes"]) -> Float[Tensor, "*axes"]:
    """A standard normal number from 32 bits, by the transform of Box and Muller."""
    size = (-2 * (uniform(bits) + 2**-25).log()).sqrt()
    return size * (2 * torch.pi * uniform(_mixed(bits))).cos()


def _mixed(bits: Int[Tensor, "*axes"]) -> Int[Tensor, "*axes"]:
    """A bijection of 32-bit integers, held in int64, that spreads every bit over all others.

    Two rounds of xor-shift and multiply with a factor small enough that no product leaves int64.
    The offset keeps 0 from being mixed to 0.
    """
    bits = (bits + 0x9E37_79B9) & _BITS
    for _ in range(2):
        bits = ((bits ^ (bits >> 16)) * 0x045D_9F3B) & _BITS
    return bits ^ (bits >> 16)
