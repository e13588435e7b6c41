"""How prompts longer than the cache enter it: in chunks, compressed as they go."""

from collections.abc import Sequence


def plan(lengths: Sequence[int], first: int, chunk: int) -> list[list[range]]:
    """The forward passes that bring prompts into a cache with room for `first` entries.

    A prompt that fits goes in one pass; a longer one sends `first` tokens, then `chunk` at a time, and is
    compressed after each pass. All prompts end in the last pass, so its last column has the logits
    of all; a longer prompt starts in an earlier one. Where a prompt is cut depends on its own length
    alone, so its entries do not depend on the other prompts.

    Args:
        lengths: prompt lengths, in tokens.
        first: tokens of a prompt's first pass at most.
        chunk: tokens of each later pass at most.

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
