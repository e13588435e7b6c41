"""The measurements of docs/performance-cpu.md: tables and plots go into the page.

    python benchmarks/performance.py --output runs/performance --smollm ./SmolLM2.gguf \
        --kvpress-python ../kvpress/bin/python

It resumes an earlier run in the same folder. Whatever else runs on the machine shows in
the numbers.
"""

import subprocess
import sys
from pathlib import Path
from typing import Annotated

import typer
from pages import DOCS, insert, picture

from skipkv.benchmark import Summary

PAGE = DOCS / "performance-cpu.md"
PLOTS = ("throughput", "memory", "crossover")
TABLES = ("throughput", "steps", "speedups", "memory", "crossings")
"""Tables of a summary, and the names of their places in the page, after the model's name."""
COSTS = {"tiny": (513, 15), "smollm": (257, 3)}
"""New tokens and rounds of the run for the table of costs. The speed of a shared machine changes
from second to second: many short rounds measure a ratio better than a few long ones."""


def main(
    output: Annotated[Path, typer.Option(help="Folder of the runs.")],
    smollm: Annotated[str | None, typer.Option(help="SmolLM2-135M; left out by default.")] = None,
    kvpress_python: Annotated[Path | None, typer.Option(help="As for skipkv bench.")] = None,
    new_tokens: int = 2048,
    repeats: int = 3,
    page: Annotated[bool, typer.Option(help="Write docs/performance-cpu.md.")] = True,
) -> None:
    """Run `skipkv bench` on every model, measure a profile of tiny, and fill the page."""
    models = {"tiny": "tiny", **({} if smollm is None else {"smollm": smollm})}
    for name, model in models.items():
        command = ["--model", model, "--new-tokens", str(new_tokens), "--repeats", str(repeats)]
        if kvpress_python is not None:
            command += ["--kvpress-python", str(kvpress_python)]
        _skipkv(*command, "--output", str(output / name))
        costs = output / f"{name}-costs"
        tokens, rounds = COSTS[name]
        length = ["--prompt-tokens", "256", "--new-tokens", str(tokens), "--repeats", str(rounds)]
        parts = ["--baselines", "floor", "--policies", "streaming_llm,snapkv,rkv,skipkv"]
        _skipkv("--model", model, *length, *parts, "--output", str(costs))
        if page:
            fill(name, output / name)
            insert(PAGE, f"{name}-costs", Summary.of_folder(costs).costs())
    profiled = _skipkv("--profile", "--new-tokens", "1024", "--output", str(output / "none"))
    (output / "profile.md").write_text(profiled)
    if page:
        insert(PAGE, "profile", profiled)


def fill(name: str, folder: Path, page: Path = PAGE) -> None:
    """Write the results of a folder into the page's places that begin with the model's name."""
    summary = Summary.of_folder(folder)
    insert(page, f"{name}-setting", summary.heading())
    for table in TABLES:
        insert(page, f"{name}-{table}", getattr(summary, table)())
    for plot in PLOTS:
        picture(folder / f"{plot}.png", f"performance-{name}-{plot}.png")


def _skipkv(*arguments: str) -> str:
    """The output of `skipkv bench`."""
    command = [sys.executable, "-m", "skipkv", "bench", *arguments]
    return subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout


if __name__ == "__main__":
    typer.run(main)
