"""Estimates in the form of files and tables."""

from collections.abc import Iterable, Sequence
from typing import Any

import attrs
import numpy as np

from skipkv.evaluation.intervals import Estimate, mean

Triple = list[float]


def kept(estimate: Estimate) -> Triple:
    """Value, low and high, rounded: for a file of JSON."""
    return [round(value, 4) for value in attrs.astuple(estimate)]


def mean_of(values: Iterable[float | int]) -> Triple:
    """Mean over problems, with its interval."""
    return kept(mean(list(values)))


def difference(values: Sequence[float | int], others: Sequence[float | int]) -> Triple:
    """Difference of the means of two groups of different problems, with a bootstrap interval."""
    from scipy import stats

    value = float(np.mean(values) - np.mean(others))
    found: Any = stats.bootstrap(
        (np.asarray(values, dtype=float), np.asarray(others, dtype=float)),
        lambda a, b, axis: np.mean(a, axis=axis) - np.mean(b, axis=axis),
        n_resamples=2000,
        batch=200,
        method="percentile",
        rng=np.random.default_rng(0),
    )
    interval = found.confidence_interval
    return kept(Estimate(value, float(interval.low), float(interval.high)))


def shown(triple: Triple | None, digits: int = 1, *, percent: bool = False, sign: str = "") -> str:
    """`12.3 [10.1, 14.5]`; a dash for None."""
    if triple is None:
        return "-"
    value, low, high = (100 * v if percent else v for v in triple)
    return f"{value:{sign}.{digits}f} [{low:{sign}.{digits}f}, {high:{sign}.{digits}f}]"


def table(head: Sequence[str], rows: Iterable[Sequence[object]], *, left: int = 1) -> str:
    """A Markdown table; all columns but the first `left` are aligned to the right."""
    rule = ["---" if i < left else "--:" for i in range(len(head))]
    return "\n".join("| " + " | ".join(map(str, row)) + " |" for row in [head, rule, *rows])


def bars(axes: Any, points: Sequence[float], triples: Sequence[Triple], **style: Any) -> None:
    """Points with their intervals."""
    values = [t[0] for t in triples]
    reach = [[t[0] - t[1] for t in triples], [t[2] - t[0] for t in triples]]
    axes.errorbar(points, values, yerr=reach, capsize=3, elinewidth=0.9, markersize=5.5, **style)
