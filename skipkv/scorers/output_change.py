"""Entries without which the attention's output would change most are worth more."""

from typing import TYPE_CHECKING

import attrs
import torch
from jaxtyping import Float
from torch import Tensor

from skipkv._calls import remembered_of, scores_of
from skipkv._types import CacheView, Needs, needs_of
from skipkv.scorers.algebra import Remembered, ScorerAlgebra

if TYPE_CHECKING:
    from skipkv.scorers.protocol import Scorer

# Below it 1 - a is rounding: an entry with all the attention leaves no other to compare with.
_LEAST = 1e-6


@attrs.frozen(kw_only=True)
class OutputChange(ScorerAlgebra):
    """How far the attention's output moves when one entry goes: a / (1 - a) * |v - o|.

    a_j is the scorer's value over the sum of its values in the head, and o = sum of a_j v_j. If
    entry j goes, the others' shares grow by 1 / (1 - a_j), and the output moves by exactly the
    score. So an entry with much attention may go where its value is what the others give too.

    Args:
        scorer: its values stand for attention; negative ones count as 0.

    Source: CAOTE (arXiv 2504.14051), on top of any score normalised to sum 1.

    Example:
        >>> from skipkv.scorers import RecentAttention
        >>> OutputChange(scorer=RecentAttention(window=8)).needs
        Needs(queries=8)
    """

    scorer: "Scorer"

    @property
    def needs(self) -> Needs:
        """The needs of the scorer."""
        return needs_of(self.scorer)

    def score(self, view: CacheView) -> Float[Tensor, "R H L"]:
        """The distance, in units of the values; not negative."""
        empty = ~view.occupied
        shares = scores_of(self.scorer, view).clamp_min(0.0).masked_fill(empty, 0.0)
        total = shares.sum(dim=-1, keepdim=True)
        shares = shares / total.clamp_min(torch.finfo(torch.float32).tiny)
        values = view.values.float().masked_fill(empty[..., None], 0.0)
        output = shares[..., None, :] @ values  # [R, H, 1, D]
        distance: Tensor = torch.linalg.vector_norm(values - output, dim=-1)
        return shares / (1 - shares).clamp_min(_LEAST) * distance

    def remember(self, view: CacheView) -> Remembered:
        """What the scorer remembers."""
        return remembered_of(self.scorer, view)
