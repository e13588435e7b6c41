"""Entries that each query attends to much, on average, are worth more."""

import math

import attrs
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import max_pool1d

from skipkv._types import CacheView, Needs
from skipkv._validators import is_a
from skipkv.scorers._attention import check_pool, received
from skipkv.scorers.algebra import ScorerAlgebra

# A share of attention below it is as good as none, and its logarithm would hide all others.
_LEAST = 1e-9


@attrs.frozen
class AttentionRate(ScorerAlgebra):
    """The logarithm of the mean attention per query that could read the entry.

    Accumulated attention grows with age: an old entry which nothing reads any more outweighs a new
    one which every query reads. Divided by the number of queries since the entry was written, old
    and new ones compare. Shares of attention differ by orders of magnitude within a head; their
    logarithms can be weighed against other scores.

    Args:
        pool: width of a max-pooling over slots, so that an entry keeps its neighbours: what is told
            in several tokens is read at one of them. Odd; 1 for none.

    Source: this library; the sum is H2O's (arXiv 2306.14048).

    Raises:
        ConfigError: `pool` is not an odd number from 1 on.
        InputError: the view carries no attention.

    Example:
        >>> AttentionRate().needs
        Needs(attention=True)
    """

    pool: int = attrs.field(default=1, validator=is_a(int), kw_only=True)

    def __attrs_post_init__(self) -> None:
        check_pool(self, self.pool)

    @property
    def needs(self) -> Needs:
        """Accumulated attention."""
        return Needs(attention=True)

    def score(self, view: CacheView) -> Float[Tensor, "R H L"]:
        """log(attention / queries), a share of at least 1e-9 each."""
        queries = (view.seen[:, None, None] - view.positions).clamp_min(1)
        rate = (received(view, "AttentionRate") / queries).clamp_min(_LEAST).log()
        if self.pool == 1:
            return rate
        rate = rate.masked_fill(~view.occupied, math.log(_LEAST))
        return max_pool1d(rate, self.pool, stride=1, padding=self.pool // 2)
