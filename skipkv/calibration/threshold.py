"""The similarity above which a sentence counts as repeated, estimated from traces."""

import math
from collections.abc import Sequence

import attrs
import numpy as np
from jaxtyping import Float64

from skipkv.calibration.similarities import TraceSimilarities
from skipkv.errors import InputError
from skipkv.evaluation.intervals import Estimate

ALLOWED = 0.05
"""The share of sentences that may count as repeated although no later one restates them."""
LEAST_RESTATED, LEAST_UNRESTATED = 20, 100
"""The fewest sentences of each kind that a threshold is estimated from."""
_RESAMPLES = 1000
_KEEP = "Keep the published 0.95: it is as good as any other."

Array = Float64[np.ndarray, "..."]


@attrs.frozen(kw_only=True)
class RepeatThreshold:
    """A threshold of similarity for one model, and how well it tells the two kinds apart.

    Intervals are 95 %, from a bootstrap over traces.

    Args:
        threshold: the least similarity above which at most 5 % of the sentences that no later one
            restates have a later one.
        traces: number of traces.
        restated: number of sentences that a later one restates.
        unrestated: number of sentences with a later one that does not restate them.
        found: share of the restated sentences above the threshold.
        mistaken: share of the others above it.
        auc: chance that a restated sentence is more similar to the sentence that restates it than
            another sentence is to any later one; 0.5 is no separation.
    """

    threshold: Estimate
    traces: int
    restated: int
    unrestated: int
    found: Estimate
    mistaken: float
    auc: Estimate

    @classmethod
    def of(cls, traces: Sequence[TraceSimilarities]) -> "RepeatThreshold":
        """The threshold for a model.

        A sentence that wrongly counts as repeated loses its facts; a repeated one that is not found
        only takes up room. So the share of wrong ones is bounded, and the threshold is the lowest
        that keeps within the bound.

        Args:
            traces: similarities of each trace.

        Raises:
            InputError: too few sentences of a kind, or similarity does not tell them apart.

        Example:
            >>> import random
            >>> draw = random.Random(0)
            >>> traces = [
            ...     TraceSimilarities(
            ...         restated=(draw.uniform(0.8, 1.0),),
            ...         unrestated=tuple(draw.uniform(0.2, 0.7) for _ in range(10)),
            ...     )
            ...     for _ in range(30)
            ... ]
            >>> 0.6 < RepeatThreshold.of(traces).threshold.value < 0.7
            True
        """
        restated, first = _joined([trace.restated for trace in traces])
        others, second = _joined([trace.unrestated for trace in traces])
        if len(restated) < LEAST_RESTATED or len(others) < LEAST_UNRESTATED:
            raise InputError(
                f"The threshold cannot be estimated: in {len(traces)} traces {len(restated)} "
                f"sentences are restated by a later one and {len(others)} are not; at least "
                f"{LEAST_RESTATED} and {LEAST_UNRESTATED} are needed. Use more questions or "
                f"longer traces. {_KEEP}"
            )
        values = _measured(restated, others)
        draws = np.random.default_rng(0).integers(len(traces), size=(_RESAMPLES, len(traces)))
        drawn = []
        for draw in draws:
            weights = np.bincount(draw, minlength=len(traces))
            some, rest = np.repeat(restated, weights[first]), np.repeat(others, weights[second])
            if len(some) and len(rest):
                drawn.append(_measured(some, rest))
        low, high = np.quantile(np.array(drawn), [0.025, 0.975], axis=0)
        threshold, found, auc = map(Estimate, values, low.tolist(), high.tolist())
        if found.low <= ALLOWED or not 0 < threshold.value < 1:
            raise InputError(
                "The threshold cannot be estimated: similarity does not tell restated sentences "
                f"from others. Above {threshold.value:.3f} lie {100 * found.value:.0f} % "
                f"[{100 * found.low:.0f}, {100 * found.high:.0f}] of the restated ones and "
                f"{100 * ALLOWED:.0f} % of the others (area under ROC {auc.value:.2f}). {_KEEP}"
            )
        return cls(
            threshold=threshold,
            traces=len(traces),
            restated=len(restated),
            unrestated=len(others),
            found=found,
            mistaken=float((others > threshold.value).mean()),
            auc=auc,
        )

    @property
    def summary(self) -> str:
        """The numbers that it was estimated from, in a line."""
        return (
            f"{self.traces} traces, {self.restated} restated and {self.unrestated} other "
            f"sentences, area under ROC {self.auc.value:.3f}"
        )

    @property
    def report(self) -> str:
        """What was estimated and how well the kinds are told apart, in a few lines."""
        at, found, auc = self.threshold, self.found.scaled(100), self.auc
        return (
            f"sentences: {self.restated} restated later, {self.unrestated} not; area under ROC "
            f"{auc.value:.3f} [{auc.low:.3f}, {auc.high:.3f}]\n"
            f"threshold of a repeated sentence: {at.value:.3f} [{at.low:.3f}, {at.high:.3f}]\n"
            f"above it: {found.value:.0f} % [{found.low:.0f}, {found.high:.0f}] of the restated "
            f"sentences, {100 * self.mistaken:.1f} % of the others"
        )


def _joined(parts: Sequence[tuple[float, ...]]) -> tuple[Array, np.ndarray]:
    """The values of all traces in one array, and the number of each value's trace."""
    values = np.array([value for part in parts for value in part], dtype=np.float64)
    return values, np.repeat(np.arange(len(parts)), [len(part) for part in parts])


def _measured(restated: Array, others: Array) -> tuple[float, float, float]:
    """Threshold, share of restated sentences above it, and area under the ROC curve."""
    ordered = np.sort(others)
    # at most the allowed share lies above this value; rounded up, so that it stays so
    last = ordered[len(ordered) - 1 - int(ALLOWED * len(ordered))]
    threshold = math.ceil(round(float(last) * 1000, 6)) / 1000
    below = np.searchsorted(ordered, restated, side="left")
    upto = np.searchsorted(ordered, restated, side="right")
    auc = float((below + upto).mean() / 2 / len(ordered))
    return threshold, float((restated > threshold).mean()), auc
