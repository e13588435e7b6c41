"""Chance in proportion to another scorer's values."""

from typing import TYPE_CHECKING

import attrs
import torch
from jaxtyping import Float
from torch import Tensor

from skipkv._calls import remembered_of, scores_of
from skipkv._types import CacheView, Needs, needs_of
from skipkv._validators import is_a
from skipkv.scorers._noise import bits_of, gumbel
from skipkv.scorers.algebra import Remembered, ScorerAlgebra

if TYPE_CHECKING:
    from skipkv.scorers.protocol import Scorer


@attrs.frozen(kw_only=True)
class Sampled(ScorerAlgebra):
    """Draws entries without replacement, with odds in proportion to a scorer's values.

    The score is log(value) + Gumbel noise. The k entries with the highest scores are then k draws
    without replacement. Chance lets an entry stay that no recent query attended to. The noise is a
    function of seed, layer, head, position and tokens seen, so every event draws anew, and the same
    view draws the same.

    Args:
        scorer: its values are the odds; those below the smallest positive float count as that.
        seed: any integer; the low 32 bits are used.

    Source: VaSE (arXiv 2606.03928), with the mean attention of 64 queries as the scorer; the trick
    is that of Kool et al. (arXiv 1903.06059).

    Example:
        >>> from skipkv.scorers import RecentAttention
        >>> Sampled(scorer=RecentAttention(window=64, pool=5)).needs
        Needs(queries=64)
    """

    scorer: "Scorer"
    seed: int = attrs.field(default=0, validator=is_a(int))

    @property
    def needs(self) -> Needs:
        """The needs of the scorer."""
        return needs_of(self.scorer)

    def score(self, view: CacheView) -> Float[Tensor, "R H L"]:
        """The logarithm of the scorer's value, plus noise."""
        device = view.positions.device
        heads = torch.arange(view.positions.shape[1], device=device)[:, None]  # [H, 1]
        bits = bits_of(
            self.seed,
            view.layers[:, None, None],
            view.seen[:, None, None],
            heads,
            view.positions,
            device=device,
        )
        odds = scores_of(self.scorer, view).clamp_min(torch.finfo(torch.float32).tiny)
        return odds.log() + gumbel(bits)

    def remember(self, view: CacheView) -> Remembered:
        """What the scorer remembers."""
        return remembered_of(self.scorer, view)
