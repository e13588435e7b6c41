"""Steer with a fixed strength."""

import attrs
from jaxtyping import Float
from torch import Tensor

from skipkv._types import Needs, SteeringContext
from skipkv.steerers._push import is_finite, is_vector, push
from skipkv.steerers.vector import SteeringVector


@attrs.frozen
class AdditiveSteerer:
    """Adds a vector, times a fixed strength, where a thought opens.

    At the end of a paragraph the model decides on its next thought. A push towards execution there
    turns some reflections into the next step of the solution.

    Source: SEAL (arXiv 2504.07986), section 3.

    Args:
        vector: the direction, and the layer whose input it is added to.
        strength: factor of the vector; positive towards execution, 0 for none.

    Raises:
        ConfigError: `vector` is not a `SteeringVector`, or the strength is not finite.

    Example:
        >>> import torch
        >>> from skipkv.steerers import SteeringVector
        >>> steerer = AdditiveSteerer(
        ...     SteeringVector(vector=torch.tensor([1.0, 0.0]), layer=1), strength=0.5
        ... )
        >>> context = SteeringContext(
        ...     at_delimiter=torch.tensor([True, False]),
        ...     thinking=torch.tensor([True, True]),
        ...     thoughts=torch.zeros(2, 3, dtype=torch.long),
        ...     positions=torch.tensor([7, 7]),
        ... )
        >>> (torch.zeros(2, 2) + steerer.delta(torch.zeros(2, 2), context)).tolist()
        [[0.5, 0.0], [0.0, 0.0]]
    """

    vector: SteeringVector = attrs.field(validator=is_vector)
    strength: float | int = attrs.field(default=1.0, validator=is_finite)

    @property
    def needs(self) -> Needs:
        """The vector's model."""
        return Needs(model=self.vector.shape)

    @property
    def layer(self) -> int:
        """The layer of the vector."""
        return self.vector.layer

    @property
    def width(self) -> int:
        """The hidden size it fits."""
        return self.vector.width

    def delta(self, hidden: Float[Tensor, "R E"], context: SteeringContext) -> Float[Tensor, "R E"]:
        """Strength times the vector, for rows at a delimiter in the thinking part."""
        return push(hidden, context, self.vector, float(self.strength))
