"""What scorers with a learned gate have in common."""

from typing import ClassVar

from jaxtyping import Float
from torch import Tensor

from skipkv._types import Needs, Written
from skipkv.scorers.algebra import ScorerAlgebra
from skipkv.scorers.write_gate import WriteGate


class Gated(ScorerAlgebra):
    """A scorer that writes down what a gate says of each entry."""

    gate: WriteGate
    RECORD: ClassVar[Written]
    """Where it is written."""

    @property
    def needs(self) -> Needs:
        """What was said when the entry was written."""
        return Needs(records=(self.RECORD,), model=self.gate.shape)

    def on_write(
        self,
        keys: Float[Tensor, "B H T D"],
        values: Float[Tensor, "B H T D"],
        hidden: Float[Tensor, "B T E"],
        layer: int,
    ) -> dict[Written, Float[Tensor, "B H T"]]:
        """What is written of new entries.

        Args:
            keys: unused.
            values: unused.
            hidden: the states that enter the layer.
            layer: its number in the model.
        """
        return {self.RECORD: self._said(self.gate(hidden, layer=layer))}

    def _said(self, number: Float[Tensor, "B H T"]) -> Float[Tensor, "B H T"]:
        """What is written, from the gate's number: that number."""
        return number
