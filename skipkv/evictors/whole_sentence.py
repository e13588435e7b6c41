"""Keep a sentence whole or not at all."""

import attrs
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from skipkv._types import CacheView, Needs
from skipkv.evictors._segments import Segments
from skipkv.evictors.top_k import best


@attrs.frozen
class WholeSentence:
    """Keeps or drops the entries of a closed sentence together, in each row and head.

    A thought is kept whole or not at all. In each row and head:

    1. Protected entries stay. The rest of the budget is the room.
    2. The open sentence, which is the current thought, comes next. All of it stays if the room
       allows. Else its best entries fill the room. So a stream without delimiters uses its whole
       budget.
    3. Closed sentences follow: first those with a protected entry, then by the mean score of their
       unprotected entries. Each is taken if all of it fits into the room that is left.
    4. A closed sentence with more unprotected entries than the whole room (step 1) never fits. The
       best such sentence, and no other, puts its best entries into the room that is left. So one
       sentence longer than the budget does not leave the cache empty.

    So a closed sentence is kept whole, or loses all its unprotected entries, except for the one of
    step 4. A row and head may end below its budget, by fewer entries than the smallest sentence
    that it dropped.

    Source: this library; the sentence as the unit is SkipKV's (arXiv 2512.07993).

    Example:
        >>> WholeSentence().needs
        Needs(sentences=True)
    """

    @property
    def needs(self) -> Needs:
        """The sentence table."""
        return Needs(sentences=True)

    def keep(
        self, scores: Float[Tensor, "R H L"], view: CacheView, budget: int
    ) -> Bool[Tensor, "R H L"]:
        """Protected entries, the open sentence, sentences that fit, part of one that cannot."""
        segments = Segments.of(view)
        free = view.occupied & ~view.protected
        open_entries = free & ~segments.closed
        room = budget - view.protected.sum(dim=-1, keepdim=True)  # [R, H, 1]
        left = (room - open_entries.sum(dim=-1, keepdim=True)).clamp_min(0)

        closed = free & segments.closed
        sizes = segments.count(closed)
        order = self._ranking(scores, view, segments, closed)
        taken, left = _fitting(sizes, order, left)
        whole = segments.spread(taken) & closed

        # the best sentence that is too long for the whole room: the first in the ranking
        too_long = (sizes > room).gather(-1, order)
        first = too_long & (too_long.cumsum(dim=-1) == 1)
        partial = segments.spread(torch.empty_like(first).scatter_(-1, order, first)) & closed

        tier = 1 * partial + 2 * open_entries + 3 * whole + 4 * view.protected
        # whole sentences fit beside the open one, so only the open or the partial one is ever cut
        return best(scores, view, budget, tier) & (tier > 0)

    def _ranking(
        self,
        scores: Float[Tensor, "R H L"],
        view: CacheView,
        segments: Segments,
        closed: Bool[Tensor, "R H L"],
    ) -> Int[Tensor, "R H L"]:
        """Runs in the order in which they are taken; runs without free entries are not read."""
        order = segments.mean(scores, closed).argsort(dim=-1, descending=True, stable=True)
        anchored = (segments.count(view.protected) > 0).gather(-1, order)
        return order.gather(-1, anchored.int().argsort(dim=-1, descending=True, stable=True))


def _fitting(
    sizes: Int[Tensor, "R H L"], order: Int[Tensor, "R H L"], left: Int[Tensor, "R H 1"]
) -> tuple[Bool[Tensor, "R H L"], Int[Tensor, "R H 1"]]:
    """Takes runs in order, each if it fits into the room that is left; gives the room left too.

    A run that does not fit now never fits, since the room only shrinks. So each round drops runs
    that are too large and takes the longest prefix of the others that fits. Few rounds are enough.
    """
    ordered = sizes.gather(-1, order)
    taken = torch.zeros_like(ordered, dtype=torch.bool)
    waiting = ordered > 0
    while True:
        waiting = waiting & (ordered <= left)
        if not waiting.any():
            return torch.empty_like(taken).scatter_(-1, order, taken), left
        used = (ordered * waiting).cumsum(dim=-1)
        now = waiting & (used <= left)
        left = left - (ordered * now).sum(dim=-1, keepdim=True)
        taken, waiting = taken | now, waiting & ~now
