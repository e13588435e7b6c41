"""95 % intervals: of a share, a mean, and a difference of means over the same problems."""

from collections.abc import Sequence
from typing import Any

import attrs
import numpy as np

_RESAMPLES = 2000
_CONFIDENCE = 0.95


@attrs.frozen
class Estimate:
    """A value with its 95 % interval.

    Args:
        value: the estimate.
        low: lower end.
        high: upper end.
    """

    value: float
    low: float
    high: float

    def scaled(self, factor: float | int) -> "Estimate":
        """All three times `factor`."""
        return Estimate(self.value * factor, self.low * factor, self.high * factor)


def proportion(successes: int, trials: int) -> Estimate:
    """A share of independent trials, with Wilson's interval.

    It stays inside [0, 1] and has a width even if all trials gave the same result.

    Source: Wilson 1927; `scipy.stats.binomtest`.

    Example:
        >>> all_right = proportion(100, 100)
        >>> round(all_right.low, 3), all_right.high
        (0.963, 1.0)
    """
    from scipy import stats

    interval = stats.binomtest(successes, trials).proportion_ci(_CONFIDENCE, method="wilson")
    return Estimate(successes / trials, float(interval.low), float(interval.high))


def mean(values: Sequence[float | int], *, spread: float | int | None = None) -> Estimate:
    """A mean over problems, with the bootstrap's percentile interval and a fixed seed.

    The bootstrap resamples problems, not samples, because samples of one problem are similar.

    Args:
        values: one per problem.
        spread: the largest possible difference between two values. If all values are equal, the
            bootstrap's interval has no width. The interval is then widened as if the largest share
            of problems in Wilson's interval had differed by this much. None leaves it as it is.

    Source: Efron 1979; `scipy.stats.bootstrap`.

    Example:
        >>> estimate = mean([0.0, 1.0, 1.0, 0.5])
        >>> estimate.value, estimate.low < 0.625 < estimate.high
        (0.625, True)
    """
    from scipy import stats

    array = np.asarray(values, dtype=float)
    value = float(array.mean())
    if np.ptp(array) == 0:
        reach = 0.0 if spread is None else proportion(0, len(array)).high * spread
        return Estimate(value, value - reach, value + reach)
    drawn: Any = stats.bootstrap(
        (array,),
        np.mean,
        n_resamples=_RESAMPLES,
        batch=200,
        confidence_level=_CONFIDENCE,
        method="percentile",
        rng=np.random.default_rng(0),
    )
    interval = drawn.confidence_interval
    return Estimate(value, float(interval.low), float(interval.high))


def mean_share(values: Sequence[float | int]) -> Estimate:
    """A mean of shares over problems, each in [0, 1]."""
    found = mean(values, spread=1)
    return Estimate(found.value, max(found.low, 0.0), min(found.high, 1.0))


def paired(values: Sequence[float | int], baseline: Sequence[float | int]) -> Estimate:
    """The mean difference of two shares over the same problems, in [-1, 1].

    Pairing removes the differences in difficulty between problems. So fewer problems are needed to
    tell similar policies apart.

    Example:
        >>> paired([1, 0, 1, 0], [1, 1, 1, 1]).value
        -0.5
    """
    found = mean([a - b for a, b in zip(values, baseline, strict=True)], spread=1)
    return Estimate(found.value, max(found.low, -1.0), min(found.high, 1.0))
