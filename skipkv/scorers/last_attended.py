"""Entries that were attended to lately are worth more."""

import attrs
from jaxtyping import Float
from torch import Tensor

from skipkv._types import CacheView, LastAbove, Needs
from skipkv._validators import is_a
from skipkv.scorers.algebra import ScorerAlgebra


@attrs.frozen(kw_only=True)
class LastAttended(ScorerAlgebra):
    """The position of the last token that gave an entry more than a little attention: its stamp.

    Facts that a step of reasoning leaves behind are used for a while and then no more. The stamp
    says when an entry was last used, however often it was used before.

    Args:
        threshold: a weight above which an entry counts as used, in [0, 1).

    Raises:
        ConfigError: `threshold` outside its range.

    Source: RaaS (arXiv 2502.11147), section 4.

    Differs: stamps belong to entries; the paper's to pages of 16. A tie is won by the earlier slot.

    Example:
        >>> LastAttended().needs
        Needs(records=(LastAbove(threshold=0.0001),))
    """

    threshold: float = attrs.field(default=1e-4, validator=is_a(float))

    def __attrs_post_init__(self) -> None:
        LastAbove(threshold=self.threshold)  # for its checks

    @property
    def needs(self) -> Needs:
        """The stamps."""
        return Needs(records=(LastAbove(threshold=self.threshold),))

    def score(self, view: CacheView) -> Float[Tensor, "R H L"]:
        """The stamp; -1 for an entry never used."""
        return view.record(LastAbove(threshold=self.threshold)).float()
