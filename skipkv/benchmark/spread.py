"""A number over the rounds: its median and its range."""

import statistics
from collections.abc import Iterable

import attrs


@attrs.frozen(kw_only=True)
class Spread:
    """The median over rounds, with the least and the most.

    Args:
        median: the median of the values.
        low: the least value.
        high: the greatest value.

    Example:
        >>> spread = Spread.of([3.0, None, 1.0, 2.0])
        >>> spread.median, spread.low, spread.high
        (2.0, 1.0, 3.0)
        >>> Spread.of([None]) is None
        True
    """

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: "Iterable[float | int | None]") -> "Spread | None":
        """The spread of the values that are not None; None if there are none."""
        found = [float(value) for value in values if value is not None]
        if not found:
            return None
        return cls(median=statistics.median(found), low=min(found), high=max(found))
