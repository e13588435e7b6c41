"""Steer with a strength that grows with reflections and transitions."""

import attrs
from jaxtyping import Float
from torch import Tensor

from skipkv._types import Needs, SteeringContext, Thought
from skipkv.steerers._push import is_finite, is_vector, push
from skipkv.steerers.vector import SteeringVector


@attrs.frozen
class AdaptiveSteerer:
    """Adds a vector, times a strength that grows with the thoughts that were not execution.

    The first reflection is often useful, the twentieth seldom. The strength is strength + growth *
    N, where N counts the reflections and transitions of the sequence so far: it hardly changes the
    first and holds against the later ones. N is refreshed at compression events.

    Source: SkipKV (arXiv 2512.07993), section 4.2 (alpha_0 is `strength`, gamma `growth`).

    Args:
        vector: the direction, and the layer whose input it is added to.
        strength: strength at the start; positive towards execution.
        growth: what every thought that is not execution adds to the strength.

    Raises:
        ConfigError: `vector` is not a `SteeringVector`, or a number is not finite.

    Example:
        >>> import torch
        >>> from skipkv.steerers import SteeringVector
        >>> steerer = AdaptiveSteerer(
        ...     SteeringVector(vector=torch.tensor([1.0]), layer=1), strength=1.0, growth=0.5
        ... )
        >>> context = SteeringContext(
        ...     at_delimiter=torch.tensor([True, True]),
        ...     thinking=torch.tensor([True, True]),
        ...     thoughts=torch.tensor([[9, 0, 0], [9, 2, 1]]),
        ...     positions=torch.tensor([7, 7]),
        ... )
        >>> steerer.delta(torch.zeros(2, 1), context).tolist()
        [[1.0], [2.5]]
    """

    vector: SteeringVector = attrs.field(validator=is_vector)
    strength: float | int = attrs.field(default=1.0, validator=is_finite)
    growth: float | int = attrs.field(default=0.02, validator=is_finite)

    @property
    def needs(self) -> Needs:
        """The vector's model; and sentences, to count their thoughts, unless growth is 0."""
        return Needs(sentences=self.growth != 0, model=self.vector.shape)

    @property
    def layer(self) -> int:
        """The layer of the vector."""
        return self.vector.layer

    @property
    def width(self) -> int:
        """The hidden size it fits."""
        return self.vector.width

    def delta(self, hidden: Float[Tensor, "R E"], context: SteeringContext) -> Float[Tensor, "R E"]:
        """The current strength times the vector, for rows at a delimiter in the thinking part."""
        thoughts = context.thoughts
        rambling = thoughts[:, Thought.REFLECTION] + thoughts[:, Thought.TRANSITION]
        strength = float(self.strength) + self.growth * rambling
        return push(hidden, context, self.vector, strength)
