"""The sweep on the embedded model for docs/results.md: table and plots go into the page.

    python benchmarks/results.py --output runs/results

It resumes an earlier run in the same folder. About half an hour on one core.
"""

import json
from pathlib import Path
from typing import Annotated

import first_errors
import torch
import typer
from pages import DOCS, insert, interval, picture

from skipkv import tiny
from skipkv.evaluation import Summary, Sweep, load_dataset

POLICIES = "streaming_llm,h2o,tova,snapkv,rkv,skipkv,skipkv:threshold=0.7"
BUDGETS = "20%,30%,40%,50%,60%,75%"


def main(
    output: Annotated[Path, typer.Option(help="Folder of records, tables and plots.")],
    limit: Annotated[int, typer.Option(help="How many problems.")] = 500,
    page: Annotated[bool, typer.Option(help="Write docs/results.md.")] = True,
) -> None:
    """Measure every preset at six budgets on the embedded model."""
    torch.set_num_threads(1)
    sweep = Sweep(data=load_dataset("tiny", limit=limit), policies=POLICIES, budgets=BUDGETS)
    summary = sweep.run(*tiny.load(device="cpu"), output, model_name="tiny")
    if page:
        insert(DOCS / "results.md", "sweep", table(summary))
        insert(DOCS / "results.md", "errors", first_errors.table(traces(output, limit)))
        for kind in ("accuracy", "length"):
            picture(output / f"{kind}-tiny.png", f"results-{kind}.png")


def traces(folder: Path, limit: int) -> dict[str, list[tuple[tiny.Problem, str]]]:
    """The traces of the full cache and of every policy at 60 %, problem by problem."""
    problems = tiny.problems(limit)
    found: dict[str, list[tuple[tiny.Problem, str]]] = {}
    for line in (folder / "records.jsonl").read_text().splitlines():
        record = json.loads(line)
        if record["asked"] in (None, "60%"):
            pair = (problems[int(record["problem"])], record["text"])
            found.setdefault(record["policy"], []).append(pair)
    return found


def table(summary: Summary) -> str:
    """The columns of a summary that differ between policies, in Markdown."""
    lines = [
        "| policy | budget | % of trace | accuracy % | difference to full | length "
        "| reflections and transitions | effective budget | peak KV kB | tokens/s |",
        "|---|--:|--:|--:|--:|--:|--:|--:|--:|--:|",
    ]
    for row in summary.rows:
        budget = "-" if row.cell.budget is None else str(row.cell.budget)
        share = "-" if row.cell.asked is None else row.cell.asked.removesuffix("%")
        accuracy, length = row.accuracy.scaled(100), row.new_tokens
        gap = "-" if row.difference is None else interval(row.difference.scaled(100), "+.1f")
        lines.append(
            f"| {row.cell.policy} | {budget} | {share} | {interval(accuracy, '.1f')} | {gap} "
            f"| {length.value:.0f} | {row.non_execution:.1f} | {row.mean_entries:.0f} "
            f"| {row.peak_kv_bytes / 1e3:.0f} | {row.tokens_per_second:.0f} |"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    typer.run(main)
