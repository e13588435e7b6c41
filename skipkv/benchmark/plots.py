"""Plots of a benchmark: throughput, memory, and the length where policies overtake full caches."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from skipkv._runs import plot_label, writing
from skipkv.benchmark.crossover import crossover
from skipkv.benchmark.subjects import DYNAMIC, FLOOR, KVPRESS, STATIC
from skipkv.benchmark.summary import Row, Summary
from skipkv.evaluation.cells import FULL
from skipkv.evaluation.plots import styles

# Policies have the colours of `skipkv eval`; baselines are black, grey or brown.
_BASELINES: dict[str, dict[str, Any]] = {
    FULL: {"color": "#000000", "marker": "x"},
    FLOOR: {"color": "#B0B0B0", "marker": "_"},
    DYNAMIC: {"color": "#777777", "marker": "P"},
    STATIC: {"color": "#8C510A", "marker": "X"},
    KVPRESS: {"color": "#8F8F00", "marker": "<"},
}


def plot(summary: Summary, folder: Path, *, plot_format: str = "png") -> list[Path]:
    """Write the plots; returns their files.

    `throughput` is over the batch size; `memory` and `crossover` are over the generated length, at
    the largest batch size that was measured.

    Args:
        summary: the summary to plot.
        folder: folder of the files.
        plot_format: "png" or "svg".
    """
    paths = []
    for name, figure in (
        ("throughput", _throughput(summary)),
        ("memory", _memory(summary)),
        ("crossover", _crossover(summary)),
    ):
        if figure is not None:
            path = folder / f"{name}.{plot_format}"
            kept = {"Date": None} if plot_format == "svg" else {}
            with writing(path):
                figure.savefig(path, dpi=150, bbox_inches="tight", metadata=kept)
            paths.append(path)
    return paths


def _throughput(summary: Summary) -> Any:
    rows = [row for row in summary.rows if row.tokens_per_second is not None]
    sizes = sorted({row.case.batch_size for row in rows})
    if not rows:
        return None
    figure, axes = _axes(summary, "batch size", "tokens per second")
    for name, style in _named(rows):
        own = sorted((r for r in rows if _name(r) == name), key=lambda r: r.case.batch_size)
        spreads = [r.tokens_per_second for r in own if r.tokens_per_second is not None]
        axes.errorbar(
            [r.case.batch_size for r in own],
            [s.median for s in spreads],
            yerr=[[s.median - s.low for s in spreads], [s.high - s.median for s in spreads]],
            label=name,
            capsize=2.5,
            linewidth=1.6,
            elinewidth=0.9,
            **style,
        )
    axes.set_xscale("log", base=2)
    axes.set_xticks(sizes, [str(size) for size in sizes])
    axes.set_ylim(bottom=0)
    _legend(axes)
    return figure


def _memory(summary: Summary) -> Any:
    rows = [r for r in _widest(summary) if any(point[2] is not None for point in r.curve)]
    if not rows:
        return None
    title = f"batch {rows[0].case.batch_size}"
    figure, axes = _axes(summary, "generated tokens", "memory beyond the model (MB)", title)
    for name, style in _named(rows):
        row = next(r for r in rows if _name(r) == name)
        points = [(tokens, used / 1e6) for tokens, _, used in row.curve if used is not None]
        axes.plot(*zip(*points, strict=True), label=name, linewidth=1.6, **_line(style))
    axes.set_ylim(bottom=0)
    _legend(axes)
    return figure


def _crossover(summary: Summary) -> Any:
    """Plot the time to each length, divided by that of the full cache."""
    rows = [row for row in _widest(summary) if row.curve]
    base = next((r for n in (DYNAMIC, FULL) for r in rows if r.case.subject == n), None)
    if base is None or len(rows) < 2:
        return None
    import numpy as np

    tokens = np.array([point[0] for point in base.curve])
    seconds = np.array([point[1] for point in base.curve])
    title = f"batch {base.case.batch_size}; below 1 is ahead of {base.case.subject}"
    label = f"time so far / that of {base.case.subject}"
    figure, axes = _axes(summary, "generated tokens", label, title)
    axes.axhline(1, color="black", linewidth=1.2)
    for name, style in _named(rows):
        row = next(r for r in rows if _name(r) == name)
        if row is base:
            continue
        own = np.interp(tokens, [p[0] for p in row.curve], [p[1] for p in row.curve])
        axes.plot(tokens, own / seconds, label=name, linewidth=1.6, **_line(style))
        at = crossover(row.curve, base.curve)
        if at is not None and tokens[0] < at:
            axes.plot([at], [1], color=style["color"], marker="o", markersize=6)
    _legend(axes)
    return figure


def _widest(summary: Summary) -> list[Row]:
    """The rows of the largest batch size at which every policy succeeded, or else the largest."""
    good = [row for row in summary.rows if row.status == "ok"]
    size = max((row.case.batch_size for row in good), default=0)
    return [row for row in good if row.case.batch_size == size]


def _name(row: Row) -> str:
    subject = plot_label(row.case.subject)
    return subject if row.case.budget is None else f"{subject} {row.case.budget}"


def _named(rows: Sequence[Row]) -> list[tuple[str, dict[str, Any]]]:
    """Names and styles; each budget of a subject has its own dashes."""
    subjects = list(dict.fromkeys(row.case.subject for row in rows))
    policies = [subject for subject in subjects if subject not in _BASELINES]
    style_of = {**_BASELINES, **dict(zip(policies, styles(policies), strict=True))}
    budgets = sorted({row.case.budget for row in rows if row.case.budget is not None})
    dashes = ("-", "--", ":", "-.")
    named = {}
    for row in rows:
        place = 0 if row.case.budget is None else budgets.index(row.case.budget)
        named[_name(row)] = {**style_of[row.case.subject], "linestyle": dashes[place % 4]}
    return list(named.items())


def _line(style: dict[str, Any]) -> dict[str, Any]:
    """The style of a line with many points: without markers."""
    return {key: value for key, value in style.items() if key != "marker"}


def _axes(summary: Summary, below: str, beside: str, title: str = "") -> tuple[Any, Any]:
    # figures without pyplot: no state, no window, and no backend to choose
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7.2, 4.2))
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    axes.set_xlabel(below)
    axes.set_ylabel(beside)
    axes.grid(alpha=0.25)
    axes.spines["right"].set_visible(False)
    axes.spines["top"].set_visible(False)
    named = f"{plot_label(summary.model)} on {summary.settings['device']}"
    axes.set_title(f"{named}, {title}" if title else named, fontsize=10, pad=10)
    return figure, axes


def _legend(axes: Any) -> None:
    axes.legend(loc="center left", bbox_to_anchor=(1.01, 0.5), frameon=False)
