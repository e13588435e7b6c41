"""Shared by all steerers with a vector."""

import math
from typing import Any

import attrs
from jaxtyping import Float
from torch import Tensor

from skipkv._types import SteeringContext
from skipkv.errors import ConfigError
from skipkv.steerers.vector import SteeringVector


def push(
    hidden: Float[Tensor, "R E"],
    context: SteeringContext,
    vector: SteeringVector,
    strength: Float[Tensor, "R"] | float,
) -> Float[Tensor, "R E"]:
    """Each row's strength times the vector, where a thought opens inside the thinking part.

    It uses few operations, since a large batch runs it at most steps.
    """
    pushed = (context.at_delimiter & context.thinking) * strength  # [R]
    return (pushed[:, None] * vector.on(hidden.device)).to(hidden.dtype)


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
            "names its layer."
        )
