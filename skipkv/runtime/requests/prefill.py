"""How prompts enter the cache: a prompt longer than the cache takes several passes.

The cache is compressed after each pass. A pass may be cut into pieces, so that sequences which are
decoding need not wait for all of it. Compression comes only at the end of a pass, so the pieces do
not change what is kept.
"""

from bisect import bisect_right
from collections.abc import Sequence

import attrs

PREFILL_CHUNK = 256
"""Tokens of a new prompt fed between two decode steps, by default."""
LONGEST_PASS = 512
"""The most tokens of a prompt fed at once where the cache grows. It bounds a pass's memory."""


def plan(lengths: Sequence[int], first: int, chunk: int) -> list[list[range]]:
    """The forward passes that feed prompts into a cache with room for `first` entries.

    A prompt that fits takes one pass. A longer one feeds `first` tokens, then `chunk` at a time,
    and is compressed after each pass. All prompts end in the last pass, so its last column has the
    logits of all. A longer prompt starts in an earlier pass. The cuts of a prompt depend on its own
    length alone, so its entries do not depend on the other prompts.

    Args:
        lengths: prompt lengths, in tokens.
        first: the most tokens of a prompt's first pass.
        chunk: the most tokens of each later pass.

    Returns:
        Per pass, the range of each prompt's positions; empty before a prompt starts.

    Example:
        >>> plan([3, 10], first=6, chunk=3)
        [[range(0, 0), range(0, 6)], [range(0, 0), range(6, 9)], [range(0, 3), range(9, 10)]]
    """
    starts = [[0, *range(first, length, chunk)] for length in lengths]
    passes = max(len(s) for s in starts)
    steps = []
    for step in range(passes):
        ranges = []
        for begins, length in zip(starts, lengths, strict=True):
            own = step - (passes - len(begins))
            if own < 0:
                ranges.append(range(0))
            else:
                end = begins[own + 1] if own + 1 < len(begins) else length
                ranges.append(range(begins[own], end))
        steps.append(ranges)
    return steps


def ends(
    length: int, *, prefix: int = 0, first: int | None, chunk: int, budget: int | None
) -> list[int]:
    """Where the passes end that feed one prompt: see `plan`.

    A prefix is fed as a prompt of its own and compressed. The rest begins with as many tokens as
    there is room for, then goes on as every prompt. So a prefix within the budget, which is not
    compressed, moves no end: it only adds its own.

    Args:
        length: tokens of the prompt, with its prefix.
        prefix: tokens of the prefix.
        first: entries there is room for; None where the cache grows and prompts go in whole.
        chunk: the most tokens of each later pass.
        budget: entries after an event.

    Example:
        >>> ends(10, first=6, chunk=3, budget=3), ends(10, prefix=2, first=6, chunk=3, budget=3)
        ([6, 9, 10], [2, 6, 9, 10])
        >>> ends(20, prefix=8, first=6, chunk=3, budget=3)
        [6, 8, 11, 14, 17, 20]
    """
    if first is None or budget is None:
        return [prefix, length] if prefix else [length]
    if not prefix:
        return [*range(first, length, chunk), length]
    room = first - min(prefix, budget)
    return [*range(first, prefix, chunk), prefix, *range(prefix + room, length, chunk), length]


@attrs.define(kw_only=True)
class Reading:
    """The progress of a prompt: how many of its tokens have been fed.

    Args:
        ends: tokens fed at the end of each pass; the last is the prompt's length.
        fed: tokens fed so far.

    Example:
        >>> reading = Reading(ends=[6, 9])
        >>> reading.take(4), reading.take(4), reading.take(4)
        (range(0, 4), range(4, 6), range(6, 9))
    """

    ends: Sequence[int]
    fed: int = 0

    @property
    def left(self) -> int:
        """Tokens to the end of the pass under way."""
        return self.ends[bisect_right(self.ends, self.fed)] - self.fed

    @property
    def at_end(self) -> bool:
        """Whether a pass has just ended."""
        return self.fed in self.ends

    @property
    def done(self) -> bool:
        """Whether the whole prompt has been fed."""
        return self.fed == self.ends[-1]

    def take(self, limit: int) -> range:
        """Return the positions to feed next, at most `limit`, and count them as fed."""
        start = self.fed
        self.fed += min(limit, self.left)
        return range(start, self.fed)


def columns(
    readings: Sequence[Reading], chunk: int, *, decoding: bool, most: int | None = None
) -> int:
    """The most tokens to feed at once of each of these prompts.

    While other sequences decode, it is `chunk`. Otherwise no sequence waits: it is then what the
    shortest remaining prompt has left, at most `most` and at least `chunk`. So that prompt decodes
    first, and padding never exceeds `chunk`.

    Example:
        >>> readings = [Reading(ends=[400]), Reading(ends=[1152, 1280])]
        >>> [columns(readings, 256, decoding=decoding) for decoding in (True, False)]
        [256, 400]
    """
    left = min(reading.left for reading in readings)
    if most is not None:
        left = min(left, most)
    return chunk if decoding else max(chunk, left)
