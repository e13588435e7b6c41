"""The picture of README.md: accuracy against the budget, on both embedded models.

    python benchmarks/overview.py runs/members runs/rambler

The two folders are those of `benchmarks/members.py` and `benchmarks/rambler.py`. Only their records
are read.
"""

from pathlib import Path
from typing import Annotated, Any

import typer
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
        axes = figure.add_subplot(1, 2, place + 1)
        found = accuracies(folder)
        full = found["full"][0.0]
        axes.axhspan(full.low, full.high, color="black", alpha=0.10, linewidth=0)
        handles["full cache"] = axes.axhline(full.value, color="black", linewidth=1.2)
        for (name, labels), style in zip(SHOWN.items(), styles([*SHOWN]), strict=True):
            cells = found.get(labels[place] or "")
            if cells is None:
                continue
            estimates = [*cells.values()]
            handles[name] = axes.errorbar(
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
        axes.set_title(title, fontsize=10)
        axes.set_xlabel("budget, % of the full cache's trace")
        axes.set_ylim(-2, 102)
        axes.set_xlim(left=0)
        axes.grid(alpha=0.25)
        for side in ("right", "top"):
            axes.spines[side].set_visible(False)
        if not place:
            axes.set_ylabel("right answers, %")
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
