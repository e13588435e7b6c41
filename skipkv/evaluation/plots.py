"""Plots of accuracy and length over the budget, with the full cache."""

import itertools
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from skipkv._runs import plot_label, writing
from skipkv.errors import InputError
from skipkv.evaluation.intervals import Estimate
from skipkv.evaluation.summary import Row, Summary

FORMATS = ("png", "svg")
"""The formats of plots."""

# Okabe and Ito's palette, which colour-blind readers can tell apart too. Black is the full cache's.
# A preset has the same colour in all plots.
_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#8C510A", "#777777")
_MARKERS = "os^Dvp*X"
_LINES = ("-", ":", "-.")  # the second for policies that find no colour of their own, and so on
_PRESETS = ("skipkv", "rkv", "snapkv", "h2o", "tova", "streaming_llm", "random")


def plot(summary: Summary, folder: Path, *, plot_format: str = "png") -> list[Path]:
    """Write two plots for every data set that was measured at some budget; returns their files.

    Each policy is a line with 95 % intervals. The full cache is a horizontal line with a band. The
    lower axis is the budget in tokens, the upper one in percent of the full cache's mean trace.

    Args:
        summary: the summary to plot.
        folder: folder of `accuracy-NAME.png` and `length-NAME.png`.
        plot_format: one of `FORMATS`.

    Raises:
        InputError: another format, or a file cannot be written.
    """
    if plot_format not in FORMATS:
        raise InputError(f"Plots are saved as {' or '.join(FORMATS)}, not {plot_format!r}.")
    # without a date in the file, so that the same records give the same bytes
    kept = {"Date": None} if plot_format == "svg" else {}
    paths = []
    for name, figure in figures(summary):
        path = folder / f"{name}.{plot_format}"
        with writing(path):
            figure.savefig(path, dpi=150, bbox_inches="tight", metadata=kept)
        paths.append(path)
    return paths


def figures(summary: Summary) -> Iterator[tuple[str, Any]]:
    """The figures of `plot`, each after the name of its file without an ending.

    Args:
        summary: the summary to plot.
    """
    for data in summary.data:
        rows = summary.of(data)
        if all(row.cell.budget is None for row in rows):
            continue
        problems = "its own problems" if data == summary.model else data
        title = f"{summary.model} on {problems}"
        yield f"accuracy-{data}", _figure(rows, title, "accuracy (pass@1, %)", _accuracy, 100.0)
        yield f"length-{data}", _figure(rows, title, "length (decoded tokens)", _length, None)


def _accuracy(row: Row) -> Estimate:
    return row.accuracy.scaled(100)


def _length(row: Row) -> Estimate:
    return row.new_tokens


def _figure(
    rows: Sequence[Row],
    title: str,
    label: str,
    value: Callable[[Row], Estimate],
    top: float | None,
) -> Any:
    # figures without pyplot: no state, no window, and no backend to choose
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.ticker import PercentFormatter

    figure = Figure(figsize=(7.2, 4.2))
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    budgets = sorted({row.cell.budget for row in rows if row.cell.budget is not None})
    rivals = list(dict.fromkeys(row.cell.policy for row in rows if not row.cell.is_full))
    full = next((row for row in rows if row.cell.is_full), None)
    if full is not None:
        estimate = value(full)
        axes.axhspan(estimate.low, estimate.high, color="black", alpha=0.10, linewidth=0)
        axes.axhline(estimate.value, color="black", linewidth=1.2, label="full cache")
    gap = min((b - a for a, b in itertools.pairwise(budgets)), default=budgets[0])
    for place, (policy, style) in enumerate(zip(rivals, styles(rivals), strict=True)):
        own = sorted(
            (row for row in rows if row.cell.policy == policy), key=lambda r: r.cell.budget or 0
        )
        if own[0].cell.budget is None:  # a policy with a budget of its own
            axes.axhline(
                value(own[0]).value, label=plot_label(policy), linestyle="--", color=style["color"]
            )
            continue
        # shifted sideways, so that bars at the same budget do not hide each other
        shift = 0.08 * gap * (place - (len(rivals) - 1) / 2) / max(1, len(rivals) - 1) * 2
        estimates = [value(row) for row in own]
        axes.errorbar(
            [(row.cell.budget or 0) + shift for row in own],
            [e.value for e in estimates],
            yerr=[
                [max(0.0, e.value - e.low) for e in estimates],
                [max(0.0, e.high - e.value) for e in estimates],
            ],
            label=plot_label(policy),
            capsize=2.5,
            linewidth=1.6,
            elinewidth=0.9,
            markersize=5.5,
            **style,
        )
    axes.set_xlabel("budget (tokens per KV head)")
    axes.set_ylabel(label)
    axes.set_xticks(budgets)
    if top is not None:  # the axis starts at 0; lengths have no top, because they differ little
        axes.set_ylim(-2, 1.02 * top)
    axes.grid(alpha=0.25)
    axes.spines["right"].set_visible(False)
    if full is not None:
        percent = full.trace / 100

        def to_percent(tokens: Any) -> Any:
            return tokens / percent

        def to_tokens(share: Any) -> Any:
            return share * percent

        above = axes.secondary_xaxis("top", functions=(to_percent, to_tokens))
        above.set_xlabel(f"budget in % of the full trace ({full.trace:.0f} tokens on average)")
        above.set_xticks([to_percent(budget) for budget in budgets])
        above.xaxis.set_major_formatter(PercentFormatter(decimals=0))
    axes.legend(loc="center left", bbox_to_anchor=(1.01, 0.5), frameon=False)
    axes.set_title(plot_label(title), fontsize=10, pad=10)
    return figure


def styles(policies: Sequence[str]) -> list[dict[str, Any]]:
    """A colour, a marker and a line for each policy, no two alike; presets have their own."""
    taken = {_PRESETS.index(p) for p in policies if p in _PRESETS}
    free = [i for i in range(len(_COLOURS)) if i not in taken] or [0]
    styles, others = [], 0
    for policy in policies:
        again = 0
        if policy in _PRESETS:
            index = _PRESETS.index(policy)
        else:
            again, place = divmod(others, len(free))
            index, others = free[place], others + 1
        styles.append(
            {
                "color": _COLOURS[index],
                "marker": _MARKERS[(index + again) % len(_MARKERS)],
                "linestyle": _LINES[again % len(_LINES)],
            }
        )
    return styles
