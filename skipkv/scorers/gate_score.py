"""Entries of which a learned gate said much when they were written are worth more."""

from typing import ClassVar

import attrs
import torch
from jaxtyping import Float
from torch import Tensor

from skipkv._types import CacheView, Written
from skipkv.scorers._gated import Gated
from skipkv.scorers.write_gate import WORTH, WriteGate, gate_for


@attrs.frozen(kw_only=True)
class GateScore(Gated):
    """The number that a gate gave an entry when it was written: the logarithm of its worth.

    A gate that was trained on what later tokens attended to says it from the state from which the
    entry is made. Nothing has to be observed while decoding.

    Source: KVzap (arXiv 2601.07891).

    Differs: the gate sees what enters the layer, divided by its root mean square; the paper's sees
    it after the layer's norm. The best entries stay, as many as the budget says; the paper drops
    those below a threshold, however many they are. The number is rounded to 12 bits, so that equal
    tokens of the first layer are equal whatever else is in the batch.

    Args:
        gate: gives the number per layer and KV head.

    Example:
        >>> import torch
        >>> gate = WriteGate(outer=torch.ones(2, 4, 1), outer_bias=torch.zeros(2, 1))
        >>> GateScore(gate=gate).needs.records
        (Written(name='gate score'),)
    """

    gate: WriteGate = attrs.field(validator=gate_for(WORTH))
    RECORD: ClassVar[Written] = Written("gate score")

    def _said(self, number: Float[Tensor, "B H T"]) -> Float[Tensor, "B H T"]:
        """The number, rounded to 12 significant bits.

        In the first layer all entries of a token get one number, but for the rounding of products
        of matrices, which depends on the batch. Which of them stays must not depend on it.
        """
        mantissa, exponent = number.frexp()
        return torch.ldexp((mantissa * 2**12).round() / 2**12, exponent)

    def score(self, view: CacheView) -> Float[Tensor, "R H L"]:
        """What was said."""
        return view.record(self.RECORD).float()
