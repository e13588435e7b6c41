"""Entries that fade as slowly as a learned gate said when they were written are worth more."""

from typing import ClassVar

import attrs
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import logsigmoid

from skipkv._types import CacheView, Needs, Written
from skipkv.scorers.algebra import ScorerAlgebra
from skipkv.scorers.write_gate import WriteGate, is_gate


@attrs.frozen(kw_only=True)
class Retention(ScorerAlgebra):
    """What is left of an entry's worth: beta^(t - i), with beta said when it was written.

    A gate sees the state from which an entry is made, and says how fast it will be forgotten. So
    nothing has to be observed while decoding, and the entry alone says when it goes. The score is
    the logarithm, (t - i) log beta, with t the newest position and i the entry's.

    Source: TRIM-KV (arXiv 2512.03324): beta = sigmoid(g(h_i)).

    Differs: the gate sees what enters the layer, divided by its root mean square; the paper's sees
    it after the layer's norm.

    Args:
        gate: gives g per layer and KV head.

    Example:
        >>> import torch
        >>> gate = WriteGate(outer=torch.ones(2, 4, 1), outer_bias=torch.zeros(2, 1))
        >>> Retention(gate=gate).needs.records
        (Written(name='retention'),)
    """

    gate: WriteGate = attrs.field(validator=is_gate)
    RECORD: ClassVar[Written] = Written("retention")

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
        """log beta, at most 0.

        Args:
            keys: unused.
            values: unused.
            hidden: the states that enter the layer.
            layer: its number in the model.
        """
        return {self.RECORD: logsigmoid(self.gate(hidden, layer=layer))}

    def score(self, view: CacheView) -> Float[Tensor, "R H L"]:
        """At most 0; 0 for the newest entry."""
        age = (view.seen - 1)[:, None, None] - view.positions
        return age.clamp_min(0) * view.record(self.RECORD).float()
