"""No steering."""

import attrs
import torch
from jaxtyping import Float
from torch import Tensor

from skipkv._types import SteeringContext


@attrs.frozen
class NoSteering:
    """Adds nothing. With it the runtime attaches no hook to the model.

    Source: this library.

    Example:
        >>> NoSteering().layer is None
        True
    """

    @property
    def layer(self) -> None:
        """None: no layer is steered."""
        return None

    def delta(self, hidden: Float[Tensor, "R E"], context: SteeringContext) -> Float[Tensor, "R E"]:
        """Zeros."""
        return torch.zeros_like(hidden)
