"""A plot of the divergence from the full cache over the budget."""

import itertools
from pathlib import Path
from typing import Any

from skipkv._runs import plot_label, writing
from skipkv.fidelity.summary import Report

_MARKERS = "os^Dvp*X<>Ph"


def plot(report: Report, path: Path) -> None:
    """Write the plot: mean divergence over the budget, a line per policy, with intervals.

    Args:
        report: the tables; rows without a budget are left out.
        path: the file; its ending says which format.

    Raises:
        InputError: the file cannot be written.
    """
    # figures without pyplot: no state, no window, and no backend to choose
    from matplotlib import colormaps
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure: Any = Figure(figsize=(7.2, 4.8))
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    rows = [row for row in report.rows if row.budget is not None]
    names = list(dict.fromkeys(row.policy for row in rows))
    for name, marker, number in zip(names, itertools.cycle(_MARKERS), itertools.count()):
        own = sorted((row for row in rows if row.policy == name), key=lambda row: row.budget or 0)
        middle = [row.kl.value for row in own]
        ends = [
            [max(0.0, row.kl.value - row.kl.low) for row in own],
            [max(0.0, row.kl.high - row.kl.value) for row in own],
        ]
        axes.errorbar(
            [row.budget for row in own],
            middle,
            yerr=ends,
            marker=marker,
            color=colormaps["tab20"](number % 20),
            label=plot_label(name),
            linewidth=1,
            capsize=2,
        )
    axes.set_xlabel("budget (entries per KV head)")
    axes.set_ylabel("KL from the full cache (nats)")
    axes.set_yscale("log")
    axes.legend(fontsize=7, loc="upper left", bbox_to_anchor=(1.01, 1))
    with writing(path):
        figure.savefig(path, dpi=150, bbox_inches="tight")
