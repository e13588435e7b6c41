"""What all steerers with a vector do alike."""

import math
from typing import Any

import attrs
import torch
from jaxtyping import Float
from torch import Tensor

from skipkv._types import SteeringContext
from skipkv.errors import ConfigError
from skipkv.steerers.vector import SteeringVector


def push(
    hidden: Float[Tensor, "R E"],
    context: SteeringContext,
    vector: SteeringVector,
    strength: Float[Tensor, "R"],
) -> Float[Tensor, "R E"]:
    """Each row's strength times the vector, where a thought opens inside the thinking part."""
    steered = context.at_delimiter & torch.logical_and(context.thinking, strength)  # not by 0
    delta = torch.outer(strength, vector.on(hidden.device))  # [R E]
    # -0.0 and not 0.0: only adding that leaves every float, -0.0 too, as it was, bit for bit
    return torch.where(steered[:, None], delta, -0.0).to(hidden.dtype)


def is_finite(self: object, field: "attrs.Attribute[Any]", value: Any) -> None:
    """Validate a number that is neither infinite nor NaN."""
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if not number or not math.isfinite(value):
        raise ConfigError(f"{type(self).__name__}({field.name}={value!r}) must be a finite number.")


def is_vector(self: object, field: "attrs.Attribute[Any]", value: Any) -> None:
    """Validate a steerer's vector."""
    if not isinstance(value, SteeringVector):
        raise ConfigError(
            f"{type(self).__name__}({field.name}=...) must be a SteeringVector, got a "
            f"{type(value).__name__}. Read one with SteeringVector.load(path), or build one: it "
            "knows its layer."
        )
