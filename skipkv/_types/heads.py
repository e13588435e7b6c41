"""One value per token from those of its entries in all KV heads of a row."""

from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import pad


def over_heads(
    values: Float[Tensor, "R H L"],
    positions: Int[Tensor, "R H L"],
    how: Literal["sum", "mean", "max"],
) -> Float[Tensor, "R H L"]:
    """For every entry the sum, mean or maximum of the values at its position, over heads.

    Heads are matched by position and not by slot. A head that does not hold a position is left out.

    Args:
        values: a value per slot; those of empty slots are not read.
        positions: position of the entry in each slot; -1 in an empty one.
        how: how the values are joined.

    Returns:
        A value per slot; any number in empty slots.
    """
    flat = positions.flatten(1)  # [R, H * L]
    order = flat.argsort(dim=-1, stable=True)
    ordered = flat.gather(-1, order)
    # number the distinct positions of a row: entries of one position get one number
    steps = (ordered[:, 1:] != ordered[:, :-1]).cumsum(dim=-1)
    group = torch.empty_like(flat).scatter_(-1, order, pad(steps, (1, 0)))
    # a plane per head: entries of a head have different positions, so the order of additions does
    # not matter; only empty slots collide, with each other
    place = group.reshape(positions.shape)
    absent = -torch.inf if how == "max" else 0.0
    planes = values.new_full((*positions.shape[:2], flat.shape[1]), absent)
    planes.scatter_(-1, place, values)
    joined = planes.amax(dim=1) if how == "max" else planes.sum(dim=1)  # [R, H * L]
    if how == "mean":
        holders = torch.zeros_like(planes).scatter_(-1, place, 1.0).sum(dim=1)
        joined = joined / holders.clamp_min(1)
    return joined.gather(-1, group).reshape(positions.shape)
