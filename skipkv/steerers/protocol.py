"""The protocol of steerers."""

from typing import Protocol, runtime_checkable

from jaxtyping import Float
from torch import Tensor

from skipkv._types import SteeringContext


@runtime_checkable
class Steerer(Protocol):
    """Changes the hidden state that enters one layer, so that the model rambles less.

    The runtime calls `delta` once per decode step, for all sequences together. It adds the answer
    to the input of layer `layer` at the token being decoded. `delta` must not read values back from
    the device (`.item()`, `if tensor:`): each read makes an accelerator wait.

    The runtime also calls it at the last token of prompts, if one of them ends a paragraph. A model
    refuses a steerer whose attribute `width`, if there is one, is not its hidden size.

    Laws: zero for rows that are not at a delimiter inside the thinking part; a row's delta depends
    on that row alone.
    """

    @property
    def layer(self) -> int | None:
        """The layer, from 0, whose input is steered; None for a steerer that does nothing."""
        ...

    def delta(self, hidden: Float[Tensor, "R E"], context: SteeringContext) -> Float[Tensor, "R E"]:
        """The change to add to `hidden`, in its dtype.

        Args:
            hidden: input of the layer at the token being decoded.
            context: where each row stands.
        """
        ...
