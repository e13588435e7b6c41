"""Tables of a comparison: means over texts with intervals, paired between policies."""

import json
from collections.abc import Sequence
from pathlib import Path

import attrs
import numpy as np
from numpy.typing import NDArray

from skipkv._runs import markdown_cell, writing
from skipkv.errors import InputError
from skipkv.fidelity.records import Record

_RESAMPLES = 1000
_BINS = 4


@attrs.frozen(kw_only=True)
class Interval:
    """A value and its 95 % interval over texts.

    Args:
        value: of all texts.
        low: lower end.
        high: upper end.
    """

    value: float
    low: float
    high: float


@attrs.frozen(kw_only=True)
class Row:
    """One policy at one budget.

    Args:
        policy: its label.
        budget: tokens of its budget; None without such a budget.
        texts: texts in which it dropped something.
        positions: positions compared in them.
        kl: mean divergence from the full cache, in nats.
        kl95: the 95th percentile of the positions' divergence.
        same: share of positions with the full cache's most likely token.
        nll: mean negative log-likelihood of the text, in nats.
        rise: by how much it exceeds the full cache's at the same positions.
        excess: by how much `kl` exceeds that of the best policy at this budget, text by text; None
            for the best itself, and where they have no text in common.
        by_distance: mean divergence by the distance from the last event, in quarters of the
            interval: shortly after it first. NaN where there is no such position.
    """

    policy: str
    budget: int | None
    texts: int
    positions: int
    kl: Interval
    kl95: Interval
    same: Interval
    nll: Interval
    rise: Interval
    excess: Interval | None
    by_distance: tuple[float, ...]


@attrs.frozen(kw_only=True)
class Report:
    """All rows of a comparison.

    Args:
        rows: by budget, and at each budget the nearest to the full cache first.
        vouched: a note for each policy that was described otherwise at times, and of which the user
            said that it does the same.
    """

    rows: tuple[Row, ...]
    vouched: tuple[str, ...] = ()

    def markdown(self) -> str:
        """The table, in Markdown."""
        lines = [
            "| policy | budget | texts | KL | KL, 95th percentile | same top-1 % | NLL | "
            "NLL less full's | KL less the best's | KL by distance from the event |",
            "|---|--:|--:|--:|--:|--:|--:|--:|--:|--:|",
        ]
        for row in self.rows:
            lines.append(
                f"| {markdown_cell(row.policy)} | {'-' if row.budget is None else row.budget} | "
                f"{row.texts} | {_shown(row.kl)} | {_shown(row.kl95)} | "
                f"{_shown(row.same, 100, 1)} | {row.nll.value:.3f} | {_shown(row.rise)} | "
                f"{'best' if row.excess is None else _shown(row.excess)} | "
                f"{', '.join(f'{x:.3f}' for x in row.by_distance)} |"
            )
        return "\n".join([*lines, *(f"\n{note}" for note in self.vouched)])

    def write(self, folder: Path) -> None:
        """Write `summary.md` and `summary.json`.

        Args:
            folder: a folder.

        Raises:
            InputError: a file cannot be written.
        """
        with writing(folder / "summary.md"):
            (folder / "summary.md").write_text(self.markdown() + "\n")
        with writing(folder / "summary.json"):
            text = json.dumps(attrs.asdict(self), indent=2)
            (folder / "summary.json").write_text(text + "\n")


def report(records: Sequence[Record]) -> Report:
    """The tables of some records.

    Args:
        records: at least one with a position.

    Raises:
        InputError: no record has a position.
    """
    cells: dict[tuple[str, int | None], list[Record]] = {}
    for record in records:
        if record.kl:
            cells.setdefault((record.policy, record.budget), []).append(record)
    if not cells:
        raise InputError("There is nothing to summarise: no policy dropped anything in any text.")
    means = {key: _means(held) for key, held in cells.items()}
    rows = []
    for budget in sorted({b for _, b in cells}, key=lambda b: (b is not None, b or 0)):
        keys = [key for key in cells if key[1] == budget]
        keys.sort(key=lambda key: _mean(list(means[key].values())))
        best = means[keys[0]]
        rows += [
            _row(cells[key], None if key == keys[0] else _behind(means[key], best)) for key in keys
        ]
    return Report(rows=tuple(rows))


def paired(records: Sequence[Record], policy: str, other: str, *, budget: int | None) -> Interval:
    """By how much the mean divergence of a policy exceeds that of another, text by text.

    Args:
        records: of one comparison.
        policy: the label of a policy.
        other: the label of the policy it is compared with.
        budget: tokens of the budget of both.

    Raises:
        InputError: they have no text in common at this budget.
    """
    own, others = (
        _means([r for r in records if r.kl and (r.policy, r.budget) == (name, budget)])
        for name in (policy, other)
    )
    found = _behind(own, others)
    if found is None:
        raise InputError(
            f"{policy} and {other} have no text in common at a budget of {budget}: the records "
            "must be of one comparison that has both."
        )
    return found


def _means(records: Sequence[Record]) -> dict[int, float]:
    """Mean divergence by text."""
    return {r.text: _mean(r.kl) for r in records}


def _row(records: list[Record], excess: Interval | None) -> Row:
    pooled = [np.array(r.kl) for r in records]
    distances = [np.array(r.distances) for r in records]
    interval = records[0].interval
    bins = [np.ceil(d / interval * _BINS).astype(int) for d in distances]
    every, where = np.concatenate(pooled), np.concatenate(bins)
    rises = [_mean(r.nll) - _mean(r.full_nll) for r in records]
    return Row(
        policy=records[0].policy,
        budget=records[0].budget,
        texts=len(records),
        positions=len(every),
        kl=_interval([_mean(r.kl) for r in records]),
        kl95=_percentile(pooled, 95),
        same=_interval([_mean(r.same) for r in records]),
        nll=_interval([_mean(r.nll) for r in records]),
        rise=_interval(rises),
        excess=excess,
        by_distance=tuple(
            float(every[where == b].mean()) if (where == b).any() else float("nan")
            for b in range(1, _BINS + 1)
        ),
    )


def _behind(own: dict[int, float], best: dict[int, float]) -> Interval | None:
    both = sorted(own.keys() & best.keys())
    return _interval([own[n] - best[n] for n in both]) if both else None


def _interval(values: Sequence[float]) -> Interval:
    """A mean with its percentile bootstrap over texts."""
    array = np.array(values)
    return _ends(float(array.mean()), array[_draws(len(array))].mean(axis=1))


def _percentile(texts: list[NDArray[np.float64]], percent: int) -> Interval:
    """A percentile over the positions of all texts, with its bootstrap over texts."""
    every = [
        np.percentile(np.concatenate([texts[i] for i in some]), percent)
        for some in _draws(len(texts))
    ]
    return _ends(float(np.percentile(np.concatenate(texts), percent)), np.array(every))


def _draws(count: int) -> NDArray[np.int64]:
    """Texts drawn with replacement, and not positions: those of one text are similar.

    The draws are the same for every policy with as many texts.
    """
    return np.random.default_rng(0).integers(0, count, (_RESAMPLES, count))


def _ends(value: float, resampled: NDArray[np.float64]) -> Interval:
    low, high = np.percentile(resampled, [2.5, 97.5])
    return Interval(value=value, low=float(low), high=float(high))


def _mean(values: Sequence[float] | Sequence[int]) -> float:
    return float(np.mean(values))


def _shown(interval: Interval, factor: int = 1, digits: int = 3) -> str:
    value, low, high = (factor * x for x in (interval.value, interval.low, interval.high))
    return f"{value:.{digits}f} [{low:.{digits}f}, {high:.{digits}f}]"
