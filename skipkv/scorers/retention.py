"""Entries that fade as slowly as a learned gate said when they were written are worth more."""

from typing import ClassVar

import attrs
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import logsigmoid

from skipkv._types import CacheView, Written
from skipkv.scorers._gated import Gated
from skipkv.scorers.write_gate import RETENTION, WriteGate, gate_for


@attrs.frozen(kw_only=True)
class Retention(Gated):
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

    gate: WriteGate = attrs.field(validator=gate_for(RETENTION))
    RECORD: ClassVar[Written] = Written("retention")

    def _said(self, number: Float[Tensor, "B H T"]) -> Float[Tensor, "B H T"]:
        """log beta, at most 0."""
        return logsigmoid(number)

    def score(self, view: CacheView) -> Float[Tensor, "R H L"]:
        """At most 0; 0 for the newest entry."""
        age = (view.seen - 1)[:, None, None] - view.positions
        return age.clamp_min(0) * view.record(self.RECORD).float()
