"""Whole numbers from shares of whole numbers."""

import math

# What a product of floats may miss by: 0.07 * 100 is a little more than 7, 0.29 * 100 less than 29.
SLACK = 1e-6


def floor_of(share: float, whole: int) -> int:
    """The largest whole number that is at most `share * whole`, for the decimal as it is written.

    Args:
        share: not negative.
        whole: not negative.

    Example:
        >>> floor_of(0.29, 100), floor_of(0.285, 100)
        (29, 28)
    """
    return math.floor(share * whole + SLACK)


def ceil_of(share: float, whole: int) -> int:
    """The smallest whole number that is at least `share * whole`, likewise.

    Args:
        share: not negative.
        whole: not negative.

    Example:
        >>> ceil_of(0.07, 100), ceil_of(0.075, 100)
        (7, 8)
    """
    return math.ceil(share * whole - SLACK)
