"""The paper's five observations on the embedded model: all numbers of docs/observations.md.

    python benchmarks/observations.py

Traces of the presets are those of `results.py`; missing ones are decoded. The numbers of a finished
experiment are stored in a file of the output folder, so that a stopped run resumes. To measure
again, delete the folder.
"""

import json
import time
from pathlib import Path
from types import ModuleType
from typing import Annotated, Any

import torch
import typer
from observed import batch, fragments, length, similar, thoughts
from observed.setting import Setting
from pages import DOCS, insert

from skipkv.evaluation.sweep import check_extras

EXPERIMENTS: dict[str, ModuleType] = {
    "batch": batch,
    "length": length,
    "fragments": fragments,
    "similar": similar,
    "thoughts": thoughts,
}
RUNS = Path("runs")


def main(
    output: Annotated[Path, typer.Option(help="Where numbers and traces are kept.")] = (
        RUNS / "observations"
    ),
    sweep: Annotated[
        Path, typer.Option(help="The folder of results.py, whose traces are used; or any other.")
    ] = RUNS / "results",
    page: Annotated[Path, typer.Option(help="The page to put tables into.")] = (
        DOCS / "observations.md"
    ),
    images: Annotated[Path, typer.Option(help="Where plots go.")] = DOCS / "images",
    problems: int = 500,
    seed: int = 0,
    threads: Annotated[int, typer.Option(help="Processor threads.")] = 1,
) -> None:
    """Measure the missing numbers, then write all tables and plots."""
    check_extras()
    torch.set_num_threads(threads)
    setting = Setting(output=output, sweep=sweep, problems=problems, seed=seed)
    output.mkdir(parents=True, exist_ok=True)
    images.mkdir(parents=True, exist_ok=True)
    for name, experiment in EXPERIMENTS.items():
        found = _found(setting, name, experiment)
        insert(page, name, experiment.show(found))
        _draw(experiment, found, images / f"observation-{name}.png")


def _found(setting: Setting, name: str, experiment: ModuleType) -> dict[str, Any]:
    """The numbers of an experiment; missing ones are measured."""
    path = setting.output / f"{name}.json"
    if path.exists():
        kept = json.loads(path.read_text())
        if kept["setting"] != setting.written:
            raise SystemExit(
                f"{path} was measured with {kept['setting']}, not {setting.written}. Choose "
                "another --output, or delete the file."
            )
        return dict(kept["found"])
    started = time.perf_counter()
    found = experiment.measure(setting)
    print(f"{name}: {time.perf_counter() - started:.0f} s", flush=True)
    path.write_text(json.dumps({"setting": setting.written, "found": found}, indent=1) + "\n")
    return dict(found)


def _draw(experiment: ModuleType, found: dict[str, Any], path: Path) -> None:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.4, 3.6))
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    experiment.draw(found, axes)
    figure.savefig(path, dpi=130, bbox_inches="tight")


if __name__ == "__main__":
    typer.run(main)
