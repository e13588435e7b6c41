"""Entries that get attention from the newest queries are worth more."""

import attrs
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import max_pool1d

from skipkv._types import CacheView, Needs
from skipkv._validators import is_a
from skipkv.errors import ConfigError
from skipkv.scorers._attention import check_pool, newest_logits, softmax_over
from skipkv.scorers.algebra import ScorerAlgebra


@attrs.frozen(kw_only=True)
class WindowAttention(ScorerAlgebra):
    """Attention that the last `window` queries pay to the entries before them, smoothed over slots.

    Entries that the current thought attends to are likely to be used by the next tokens too. Per
    query it takes the largest logit of the query heads that share a KV head; then the softmax over
    the entries outside the window, the mean over the queries, and max-pooling, so that an entry
    keeps its neighbours. Entries of the window get 0: the budget's window protects them.

    Args:
        window: most recent queries to observe, in tokens; at least 1.
        pool: width of the max-pooling, in slots; odd, 1 for none.

    Raises:
        ConfigError: `window` below 1, or `pool` not an odd number from 1 on.

    Source: SnapKV (arXiv 2404.14469), section 4; R-KV (arXiv 2505.24133) for the
    maximum over query heads before the softmax, as in its published code.

    Differs: pooling never crosses empty slots, since there is no padding.

    Example:
        >>> WindowAttention(window=8, pool=7).needs
        Needs(queries=8)
    """

    window: int = attrs.field(default=8, validator=is_a(int))
    pool: int = attrs.field(default=7, validator=is_a(int))

    def __attrs_post_init__(self) -> None:
        if self.window < 1:
            raise ConfigError(
                f"WindowAttention(window={self.window}) must be at least 1: it is the number of "
                "newest queries observed. Use 1 for the newest query alone."
            )
        check_pool(self, self.pool)

    @property
    def needs(self) -> Needs:
        """The window's queries."""
        return Needs(queries=self.window)

    def score(self, view: CacheView) -> Float[Tensor, "R H L"]:
        """Pooled mean attention of the window, in [0, 1]; 0 inside the window."""
        before = view.occupied & ~view.within_window(self.window)
        logits = newest_logits(view, self.window, "WindowAttention").amax(dim=2)  # [R, H, W, L]
        # a sink is one more entry, so of the query heads that share it the largest logit too
        sinks = None if view.sinks is None else view.sinks.amax(dim=2)[..., None]
        attention = softmax_over(logits, before, sinks).mean(dim=2)
        # entries of the window hold 0, which never changes a maximum over attention
        pooled = max_pool1d(attention, self.pool, stride=1, padding=self.pool // 2)
        return pooled.masked_fill(~before, 0.0)
