"""The generated length from which on one way of decoding is faster than another."""

from collections.abc import Sequence
from typing import Any

import numpy as np


def crossover(ours: Sequence[Any], theirs: Sequence[Any]) -> int | None:
    """Tokens from which on `ours` has taken less time in all; None if it never does.

    Curves are interpolated linearly between their points. The result is the last change of the
    lead, up to the end of the shorter curve.

    Args:
        ours: a curve of (tokens, seconds since the call, ...), tokens rising.
        theirs: the curve to compare with.

    Example:
        >>> slow_start = [(1, 2.0), (100, 3.0)]
        >>> steady = [(1, 0.0), (100, 4.0)]
        >>> crossover(slow_start, steady), crossover(steady, slow_start)
        (68, None)
    """
    if not ours or not theirs:
        return None
    first = max(ours[0][0], theirs[0][0])
    last = min(ours[-1][0], theirs[-1][0])
    if last < first:
        return None
    tokens = np.arange(first, last + 1)
    lead = _at(theirs, tokens) - _at(ours, tokens)  # seconds that ours is ahead
    behind = np.flatnonzero(lead <= 0)
    if not len(behind):
        return int(first)
    return None if behind[-1] == len(tokens) - 1 else int(tokens[behind[-1] + 1])


def _at(curve: Sequence[Any], tokens: Any) -> Any:
    return np.interp(tokens, [point[0] for point in curve], [point[1] for point in curve])
