"""Reserve a share of the room for what another scorer values."""

import attrs
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from skipkv._calls import scores_of
from skipkv._shares import SLACK
from skipkv._types import CacheView, Needs, needs_of
from skipkv._validators import is_a
from skipkv.errors import ConfigError
from skipkv.evictors.top_k import best


@attrs.frozen(kw_only=True)
class Reserved:
    """Keeps the protected entries, then the best of a second scorer, then the best of the policy's.

    The room of a head is its budget less what is protected. `share` of it, rounded down, goes to
    the entries that `scorer` values most; the rest to those with the highest scores. So two views
    of worth need no common scale.

    Args:
        scorer: any scorer; of equal values the earlier slot comes first.
        share: of the room, in [0, 1].

    Raises:
        ConfigError: `scorer` has no `score`, or `share` lies outside [0, 1].

    Source: VaSE (arXiv 2606.03928): a quarter for the values with the largest components.

    Example:
        >>> from skipkv.scorers import ValuePeak
        >>> Reserved(scorer=ValuePeak(), share=0.25)
        Reserved(scorer=ValuePeak(), share=0.25)
    """

    scorer: object
    share: float = attrs.field(default=0.25, validator=is_a(float))

    def __attrs_post_init__(self) -> None:
        if isinstance(self.scorer, type) or not callable(getattr(self.scorer, "score", None)):
            raise ConfigError(
                f"Reserved(scorer={self.scorer!r}) must be a scorer, an object with score(view)."
            )
        if not 0 <= self.share <= 1:
            raise ConfigError(
                f"Reserved(share={self.share}) must lie in [0, 1]: it is the share of the room "
                "beside protected entries that the scorer's best get."
            )

    @property
    def needs(self) -> Needs:
        """The needs of the scorer."""
        return needs_of(self.scorer)

    def keep(
        self, scores: Float[Tensor, "R H L"], view: CacheView, budget: int
    ) -> Bool[Tensor, "R H L"]:
        """Protected entries, then the reserved places, then the best by `scores`."""
        free = view.occupied & ~view.protected
        worth = scores_of(self.scorer, view).masked_fill(~free, -torch.inf)
        order = worth.argsort(dim=-1, descending=True, stable=True).argsort(dim=-1)
        room = budget - view.protected.sum(dim=-1, keepdim=True)
        reserved = free & (order < (self.share * room.double() + SLACK).floor())
        return best(scores, view, budget, torch.where(view.protected, 2, reserved.int()))
