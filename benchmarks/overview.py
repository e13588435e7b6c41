"""The picture of README.md: accuracy against the budget, on both embedded models.

    python benchmarks/overview.py runs/members runs/rambler

The two folders are those of `benchmarks/members.py` and `benchmarks/rambler.py`. Only their records
are read.
"""

from pathlib import Path
from typing import Annotated, Any

import typer
from curves import axes_of, curve, level
from pages import DOCS

from skipkv.evaluation import Estimate
from skipkv.evaluation.intervals import mean_share
from skipkv.evaluation.plots import styles
from skipkv.evaluation.records import read_records

# Names in the legend -> the labels of the policy in the two folders.
SHOWN = {
    "attended_distinct": ("attended_distinct", "attended_distinct"),
    "skipkv": ("skipkv:threshold=0.7", "rkv + sentences"),
    "skipkv, steered": (None, "skipkv (both) 1.5"),
    "rkv": ("rkv", "rkv"),
    "h2o": ("h2o", "h2o"),
    "random": ("random", "random"),
}
TITLES = ("tiny, greedy: 500 problems", "rambler, sampled: 500 problems, two samples each")


def accuracies(folder: Path) -> dict[str, dict[float, Estimate]]:
    """Right answers by policy and by budget, in % of the trace; the full cache's are at 0."""
    cells: dict[tuple[str, float], dict[str, list[bool]]] = {}
    for record in read_records(folder / "records.jsonl")[0]:
        share = float((record.asked or "0").removesuffix("%"))
        problems = cells.setdefault((record.policy, share), {})
        problems.setdefault(record.problem, []).append(bool(record.correct))
    most = max(len(problems) for problems in cells.values())
    found: dict[str, dict[float, Estimate]] = {}
    for (policy, share), problems in sorted(cells.items()):
        if len(problems) == most:  # a cell that was interrupted has only the first problems
            shares = [sum(right) / len(right) for right in problems.values()]
            found.setdefault(policy, {})[share] = mean_share(shares).scaled(100)
    return found


def draw(folders: tuple[Path, Path]) -> Any:
    """Two panels with one legend."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9.6, 3.9))
    FigureCanvasAgg(figure)
    handles: dict[str, Any] = {}
    for place, (folder, title) in enumerate(zip(folders, TITLES, strict=True)):
        axes = axes_of(figure, (1, 2, place + 1), title)
        found = accuracies(folder)
        handles["full cache"] = level(axes, found["full"][0.0])
        for (name, labels), style in zip(SHOWN.items(), styles([*SHOWN]), strict=True):
            if (cells := found.get(labels[place] or "")) is not None:
                handles[name] = curve(axes, cells, style)
        axes.set_xlim(left=0)
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
    tiny: Annotated[Path, typer.Argument(help="Folder of benchmarks/members.py.")],
    rambler: Annotated[Path, typer.Argument(help="Folder of benchmarks/rambler.py.")],
    output: Annotated[Path, typer.Option(help="The picture.")] = DOCS / "images" / "overview.png",
) -> None:
    """Draw the picture from the records of both folders."""
    draw((tiny, rambler)).savefig(output, dpi=150)


if __name__ == "__main__":
    typer.run(main)
