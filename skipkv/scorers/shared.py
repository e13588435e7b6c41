"""One value per token for all heads."""

from typing import TYPE_CHECKING

import attrs
import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import pad

from skipkv._calls import scores_of
from skipkv._types import CacheView, Needs, needs_of
from skipkv.scorers.algebra import ScorerAlgebra

if TYPE_CHECKING:
    from skipkv.scorers.protocol import Scorer


@attrs.frozen(kw_only=True)
class Shared(ScorerAlgebra):
    """A scorer averaged over the KV heads of a row, so that all heads keep the same tokens.

    Heads are matched by position and not by slot. A head that does not hold a token any more counts
    as 0 for it.

    Source: this library. Published KV-cache baselines called H2O choose one set of tokens per layer
    from the newest query: `Shared(scorer=WindowAttention(window=1, pool=1))`.

    Args:
        scorer: the scorer to average.

    Example:
        >>> from skipkv.scorers import WindowAttention
        >>> Shared(scorer=WindowAttention(window=1, pool=1))
        Shared(scorer=WindowAttention(window=1, pool=1))
    """

    scorer: "Scorer"

    @property
    def needs(self) -> Needs:
        """The needs of the scorer."""
        return needs_of(self.scorer)

    def score(self, view: CacheView) -> Float[Tensor, "R H L"]:
        """The mean over heads of the scorer's values for the token in each slot."""
        return mean_over_heads(scores_of(self.scorer, view), view.positions)


def mean_over_heads(
    values: Float[Tensor, "R H L"], positions: Int[Tensor, "R H L"]
) -> Float[Tensor, "R H L"]:
    """For every entry the mean over heads of the values at its position; absent ones count as 0.

    Args:
        values: a value per slot.
        positions: position of the entry in each slot; -1 in an empty one.
    """
    heads = positions.shape[1]
    flat = positions.flatten(1)  # [R, H * L]
    order = flat.argsort(dim=-1, stable=True)
    ordered = flat.gather(-1, order)
    # number the distinct positions of a row: entries of one position get one number
    steps = (ordered[:, 1:] != ordered[:, :-1]).cumsum(dim=-1)
    group = torch.empty_like(flat).scatter_(-1, order, pad(steps, (1, 0)))
    # a plane per head: entries of a head have different positions, so the order of additions does
    # not matter; only empty slots collide, with each other
    planes = values.new_zeros(*positions.shape[:2], flat.shape[1])
    planes.scatter_(-1, group.reshape(positions.shape), values)
    mean = planes.sum(dim=1) / heads  # [R, H * L]
    return mean.gather(-1, group).reshape(positions.shape)
