"""Pictures of accuracy against the budget: axes, the full cache's level, a line for each policy."""

from typing import Any

from skipkv.evaluation import Estimate


def axes_of(figure: Any, place: tuple[int, int, int], title: str) -> Any:
    """Axes for right answers in percent against budgets in percent of the full trace."""
    axes = figure.add_subplot(*place)
    axes.set_title(title, fontsize=10)
    axes.set_xlabel("budget, % of the full cache's trace")
    axes.set_ylim(-2, 102)
    axes.grid(alpha=0.25)
    for side in ("right", "top"):
        axes.spines[side].set_visible(False)
    if place[2] == 1:
        axes.set_ylabel("right answers, %")
    return axes


def level(axes: Any, full: Estimate) -> Any:
    """The accuracy of the full cache with its interval; returns what a legend shows."""
    axes.axhspan(full.low, full.high, color="black", alpha=0.10, linewidth=0)
    return axes.axhline(full.value, color="black", linewidth=1.2)


def curve(axes: Any, cells: dict[float, Estimate], style: dict[str, Any]) -> Any:
    """A policy's accuracies by budget, with intervals; returns what a legend shows."""
    estimates = [*cells.values()]
    return axes.errorbar(
        [*cells],
        [e.value for e in estimates],
        yerr=[
            [max(0.0, e.value - e.low) for e in estimates],
            [max(0.0, e.high - e.value) for e in estimates],
        ],
        capsize=2.5,
        linewidth=1.6,
        elinewidth=0.9,
        markersize=5.5,
        **style,
    )
