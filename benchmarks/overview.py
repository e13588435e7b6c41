"""The picture of README.md: accuracy against the budget, on both embedded models.

    python benchmarks/overview.py

It is drawn from the tables of docs/results.md and docs/rambler.md, which `benchmarks/members.py`
and `benchmarks/rambler.py` write.
"""

import re
from pathlib import Path
from typing import Annotated, Any

import typer
from curves import axes_of, curve, level
from pages import DOCS, inserted

from skipkv.evaluation import Estimate
from skipkv.evaluation.plots import styles

FULL = "full"
# Names in the legend -> the labels of the policy in the two tables.
SHOWN = {
    "attended_distinct": ("attended_distinct", "attended_distinct"),
    "skipkv": ("skipkv:threshold=0.7", "rkv + sentences"),
    "skipkv, steered": (None, "skipkv (both) 1.5"),
    "rkv": ("rkv", "rkv"),
    "h2o": ("h2o", "h2o"),
    "random": ("random", "random"),
}
TABLES = (("results.md", "members"), ("rambler.md", "accuracy"))
MOST = (78, 27)
"""The largest budget shown, in percent: on the second model little changes after a quarter."""
TITLES = ("tiny, greedy: 500 problems", "rambler, sampled: 500 problems, two samples each")

_ESTIMATE = re.compile(r"([\d.]+) \[([\d.]+), ([\d.]+)\]")


def accuracies(page: Path, name: str) -> dict[str, dict[float, Estimate]]:
    """Right answers by policy and by budget, in % of the trace, as a page's table has them.

    A row begins with the policy. Its cells are under the budgets, and "-" where nothing is
    measured; the full cache has one number for all of them.
    """
    rows = [line.strip("| ").split(" | ") for line in inserted(page, name).splitlines()]
    head, _, *body = rows
    found: dict[str, dict[float, Estimate]] = {}
    for label, *cells in body:
        for column, cell in zip(head[1:], cells, strict=True):
            if (numbers := _ESTIMATE.fullmatch(cell)) is not None:
                value, low, high = map(float, numbers.groups())
                own = found.setdefault(label.strip("`"), {})
                own[float(column.removesuffix("%"))] = Estimate(value=value, low=low, high=high)
    return found


def draw(pages: Path) -> Any:
    """Two panels with one legend."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9.6, 3.9))
    FigureCanvasAgg(figure)
    handles: dict[str, Any] = {}
    for place, ((page, name), title) in enumerate(zip(TABLES, TITLES, strict=True)):
        axes = axes_of(figure, (1, 2, place + 1), title)
        found = accuracies(pages / page, name)
        handles["full cache"] = level(axes, next(iter(found[FULL].values())))
        for (shown, labels), style in zip(SHOWN.items(), styles([*SHOWN]), strict=True):
            if (cells := found.get(labels[place] or "")) is not None:
                handles[shown] = curve(axes, cells, style)
        axes.set_xlim(0, MOST[place])
    figure.legend(
        handles.values(),
        handles.keys(),
        loc="lower center",
        ncols=len(handles),
        frameon=False,
        fontsize=9,
    )
    figure.tight_layout(rect=(0, 0.08, 1, 1))
    return figure


def main(
    output: Annotated[Path, typer.Option(help="The picture.")] = DOCS / "images" / "overview.png",
) -> None:
    """Draw the picture from the two tables."""
    draw(DOCS).savefig(output, dpi=150)


if __name__ == "__main__":
    typer.run(main)
