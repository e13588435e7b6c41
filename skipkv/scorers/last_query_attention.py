"""Entries that get attention from the newest query are worth more."""

import attrs
from jaxtyping import Float
from torch import Tensor

from skipkv._types import CacheView, Needs, over_heads
from skipkv._validators import is_a
from skipkv.scorers._attention import newest_logits, softmax_over
from skipkv.scorers.algebra import ScorerAlgebra


@attrs.frozen(kw_only=True)
class LastQueryAttention(ScorerAlgebra):
    """Attention of the newest query: a transformer read as a multi-state RNN.

    For each query head it takes the newest query's softmax over all entries of the KV head, the
    newest entry included; then the mean over the query heads. TOVA keeps, per layer, the tokens
    with the highest mean over all heads: `shared=True`.

    Args:
        shared: average over all heads of the row, so that they keep the same tokens (TOVA). False
            averages over the query heads of each KV head, so that KV heads may keep different ones.

    Source: TOVA (arXiv 2401.06104). Some published baselines called H2O look at the
    newest query too, but take the largest logit of the query heads that share a KV head and leave
    the newest entry out of the softmax: that is
    `Shared(scorer=WindowAttention(window=1, pool=1))`.

    Differs: TOVA evicts at every step; here at compression events. The newest entry is protected by
    the budget's window.

    Example:
        >>> LastQueryAttention(shared=True).needs.queries
        1
    """

    shared: bool = attrs.field(default=True, validator=is_a(bool))

    @property
    def mixes_heads(self) -> bool:
        """Whether the heads of a row share their scores."""
        return self.shared

    @property
    def needs(self) -> Needs:
        """The newest query."""
        return Needs(queries=1)

    def score(self, view: CacheView) -> Float[Tensor, "R H L"]:
        """Attention received from the newest query, in [0, 1]."""
        logits = newest_logits(view, 1, "LastQueryAttention")[:, :, :, 0]  # [R, H, G, L]
        attention = softmax_over(logits, view.occupied, view.sinks).mean(dim=2)
        if not self.shared:
            return attention
        return over_heads(attention, view.positions, "sum") / attention.shape[1]
