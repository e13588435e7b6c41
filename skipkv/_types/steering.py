"""What a steerer knows of the rows it steers."""

import attrs
from jaxtyping import Bool, Int
from torch import Tensor


@attrs.frozen(kw_only=True)
class SteeringContext:
    """Where each of `R` sequences stands in this decode step.

    Args:
        at_delimiter: the token being decoded ends a paragraph.
        thinking: the token lies between the marks of thinking, such as <think> and </think>.
        thoughts: closed sentences so far by `Thought`, refreshed at compression events.
        positions: position of the token being decoded.
    """

    at_delimiter: Bool[Tensor, "R"]
    thinking: Bool[Tensor, "R"]
    thoughts: Int[Tensor, "R 3"]
    positions: Int[Tensor, "R"]
