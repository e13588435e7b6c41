"""Entries that are used again and again are worth more until their next use is overdue."""

import attrs
from jaxtyping import Float
from torch import Tensor

from skipkv._types import CacheView, LastAbove, LongestGap, Needs
from skipkv._validators import is_a
from skipkv.scorers.algebra import ScorerAlgebra


@attrs.frozen(kw_only=True)
class Recurrence(ScorerAlgebra):
    """Minus the time since an entry was last used, in units of the longest it was idle before.

    A fact may be needed every hundred tokens. Its attention is then small at most events, and yet
    it is needed again. So an entry is overdue, with a score below -1, only once it has been idle
    for longer than ever before. An entry that was used once has a unit of one token.

    Args:
        threshold: a weight above which an entry counts as used, in [0, 1).

    Raises:
        ConfigError: `threshold` outside its range.

    Source: LazyEviction (arXiv 2506.15969), section 4: the time stamp and the maximum recurrence
    interval.

    Differs: entries are in the order of idle time over interval; the paper joins functions of the
    two. A tie is won by the earlier slot.

    Example:
        >>> Recurrence().needs
        Needs(records=(LongestGap(threshold=0.0001), LastAbove(threshold=0.0001)))
    """

    threshold: float = attrs.field(default=1e-4, validator=is_a(float))

    def __attrs_post_init__(self) -> None:
        LongestGap(threshold=self.threshold)  # for its checks

    @property
    def needs(self) -> Needs:
        """The longest gap between two uses, and the last use."""
        return Needs(records=(LongestGap(threshold=self.threshold),))

    def score(self, view: CacheView) -> Float[Tensor, "R H L"]:
        """0 for an entry that the newest token used, -1 for one that is just not overdue."""
        last = view.record(LastAbove(threshold=self.threshold)).float()
        gap = view.record(LongestGap(threshold=self.threshold)).float().clamp_min(1)
        return (last - (view.seen - 1)[:, None, None]).clamp_max(0) / gap
