"""Entries that the newest queries really attended to are worth more."""

import attrs
import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn.functional import avg_pool1d

from skipkv._types import CacheView, Needs
from skipkv._validators import is_a
from skipkv.errors import ConfigError
from skipkv.scorers._attention import (
    check_pool,
    logits_of,
    newest_queries,
    some_at_a_time,
    with_sinks,
)
from skipkv.scorers.algebra import ScorerAlgebra


@attrs.frozen(kw_only=True)
class RecentAttention(ScorerAlgebra):
    """The attention that the last `window` queries paid to each entry, as the model computed it.

    Query w of query head g pays a[g, w, j] = softmax over j of q_gw . k_j / sqrt(D), over all
    entries up to its own position. The score is the mean or maximum of a over the queries, then the
    mean over the `G` query heads that share the KV head, then average-pooled over neighbouring
    slots.

    `WindowAttention` (SnapKV, R-KV) joins query heads before the softmax, leaves the window out of
    it, and pools by the maximum.

    Args:
        window: newest queries observed, in tokens; at least 1.
        over: how queries are joined: "mean", whose order is the sum's, or "max".
        pool: width of the average-pooling, in slots; odd, 1 for none.

    Raises:
        ConfigError: `window` below 1, `over` another word, or `pool` not an odd number from 1 on.

    Source: MorphKV (arXiv 2503.00979), section 3, sum and max fusion without pooling; VaSE
    (arXiv 2606.03928), the mean with a pool of 5.

    Differs: a slot beside an empty one is pooled with zeros.

    Example:
        >>> RecentAttention(window=64, pool=5).needs
        Needs(queries=64)
    """

    window: int = attrs.field(default=8, validator=is_a(int))
    over: str = attrs.field(default="mean")
    pool: int = attrs.field(default=1, validator=is_a(int))

    def __attrs_post_init__(self) -> None:
        if self.window < 1:
            raise ConfigError(
                f"RecentAttention(window={self.window}) must be at least 1: it is the number of "
                "newest queries observed. Use 1 for the newest query alone."
            )
        if self.over not in ("mean", "max"):
            raise ConfigError(
                f"RecentAttention(over={self.over!r}) must be 'mean' or 'max': how the attention "
                "of several queries is joined. A sum orders entries as the mean does."
            )
        check_pool(self, self.pool)

    @property
    def needs(self) -> Needs:
        """The window's queries."""
        return Needs(queries=self.window)

    def score(self, view: CacheView) -> Float[Tensor, "R H L"]:
        """Attention received, in [0, 1]."""
        queries = newest_queries(view, self.window, "RecentAttention")
        keys = view.keys.float()
        offsets = torch.arange(-self.window, 0, device=keys.device)
        places = view.seen[:, None] + offsets  # [R, W]
        received = keys.new_zeros(*queries.shape[:3], keys.shape[2])  # [R, H, G, L]
        for some in some_at_a_time(queries):
            at = places[:, some, None]  # [R, w, 1]
            visible = view.occupied[:, :, None] & (view.positions[:, :, None] <= at[:, None])
            shares = _shares(logits_of(view, queries[:, :, :, some], keys), visible, view.sinks)
            if self.over == "max":
                received = torch.maximum(received, shares.amax(dim=3))
            else:
                received += shares.sum(dim=3) / self.window
        mean = received.mean(dim=2)
        # empty slots hold 0, as the padding does
        return avg_pool1d(mean, self.pool, stride=1, padding=self.pool // 2)


def _shares(
    logits: Float[Tensor, "R H G w L"],
    visible: Bool[Tensor, "R H w L"],
    sinks: Float[Tensor, "R H G"] | None,
) -> Float[Tensor, "R H G w L"]:
    """Softmax over what each query sees; 0 elsewhere, and for a query that sees nothing."""
    filled = logits.masked_fill(~visible[:, :, None], torch.finfo(torch.float32).min)
    shares = with_sinks(filled, None if sinks is None else sinks[..., None])
    return shares * visible[:, :, None]
