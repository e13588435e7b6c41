"""SkipKV's ideas alone and together on the embedded model; the ablation of docs/results.md.

    python benchmarks/ablation.py --output runs/ablation

R-KV, with sentences evicted first, with steering, and with both, beside the full cache with and
without steering. It resumes an earlier run in the same folder. About half an hour on
one core.
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Annotated

import torch
import typer
from pages import DOCS, insert, interval, picture

from skipkv import Policy, presets, tiny
from skipkv.evaluation import Cell, Estimate, Record, Row, Summary, Sweep, load_dataset
from skipkv.evaluation.intervals import mean, paired
from skipkv.evaluation.records import read_records
from skipkv.steerers import AdaptiveSteerer, SteeringVector

BUDGETS = "10%,20%,30%,40%,50%,60%,75%,85%"
RKV = "rkv"
_VECTOR = Path(tiny.__file__).parent / "weights" / "steering.safetensors"


def main(
    output: Annotated[Path, typer.Option(help="Folder of records, tables and plots.")],
    vector: Annotated[Path, typer.Option(help="The steering vector.")] = _VECTOR,
    strength: Annotated[float, typer.Option(help="Of the steering, at the start.")] = 0.6,
    growth: Annotated[float, typer.Option(help="Of it, per non-execution thought.")] = 0.02,
    threshold: Annotated[float, typer.Option(help="Above it a sentence is repeated.")] = 0.7,
    budgets: Annotated[str, typer.Option(help="Percent of the full trace, or tokens.")] = BUDGETS,
    limit: Annotated[int, typer.Option(help="How many problems.")] = 500,
    seed: Annotated[int, typer.Option(help="Of the problems.")] = 0,
    page: Annotated[bool, typer.Option(help="Write docs/results.md.")] = True,
) -> None:
    """Measure each of SkipKV's ideas at every budget."""
    torch.set_num_threads(1)
    steerer = AdaptiveSteerer(SteeringVector.load(str(vector)), strength=strength, growth=growth)
    sweep = Sweep(
        data=load_dataset("tiny", limit=limit, seed=seed),
        policies=compared(steerer, threshold),
        budgets=budgets,
    )
    summary = sweep.run(*tiny.load(device="cpu"), output, model_name="tiny")
    text = table(summary, read_records(output / "records.jsonl")[0])
    if not page:
        print(text)
        return
    insert(DOCS / "results.md", "ablation", text)
    for kind in ("accuracy", "length"):
        picture(output / f"{kind}-tiny.png", f"ablation-{kind}.png")


def compared(
    steerer: AdaptiveSteerer, threshold: float
) -> Mapping[str, Policy | Callable[..., Policy]]:
    """Every policy under its label; policies differ only in what the label says."""

    def sentences(budget: int, interval: int) -> Policy:
        return presets.skipkv(budget, interval=interval, threshold=threshold)

    def steered(budget: int, interval: int) -> Policy:
        return presets.rkv(budget, interval=interval).with_(steerer=steerer)

    def both(budget: int, interval: int) -> Policy:
        return sentences(budget, interval).with_(steerer=steerer)

    return {
        "full + steering": presets.full().with_(steerer=steerer),
        RKV: presets.rkv,
        "rkv + sentences": sentences,
        "rkv + steering": steered,
        "skipkv (both)": both,
    }


def table(summary: Summary, records: Sequence[Record]) -> str:
    """Accuracy and length, compared with the full cache and R-KV on the same problems."""
    by_cell: dict[Cell, dict[str, list[Record]]] = {}
    for record in records:
        by_cell.setdefault(record.cell, {}).setdefault(record.problem, []).append(record)
    full = next(row for row in summary.rows if row.cell.is_full)
    rivals = {row.cell.asked: by_cell[row.cell] for row in summary.rows if row.cell.policy == RKV}
    lines = [
        "| policy | budget | % of trace | accuracy % | difference to full "
        "| to rkv at this budget | length | to full, % | reflections and transitions |",
        "|---|--:|--:|--:|--:|--:|--:|--:|--:|",
    ]
    for row in summary.rows:
        cell, own = row.cell, by_cell[row.cell]
        rival = None if cell.policy == RKV else rivals.get(cell.asked)
        cells = (
            cell.policy,
            "-" if cell.budget is None else str(cell.budget),
            "-" if cell.asked is None else cell.asked.removesuffix("%"),
            interval(row.accuracy.scaled(100), ".1f"),
            _points(row),
            "-" if rival is None else interval(gap(own, rival).scaled(100), "+.1f"),
            f"{row.new_tokens.value:.0f}",
            "-" if row is full else interval(longer(own, by_cell[full.cell]), "+.1f"),
            f"{row.non_execution:.1f}",
        )
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _points(row: Row) -> str:
    return "-" if row.difference is None else interval(row.difference.scaled(100), "+.1f")


Samples = Mapping[str, Sequence[Record]]  # of each problem


def gap(own: Samples, rival: Samples) -> Estimate:
    """The difference in the share of right answers, over the problems of both."""
    shared = [problem for problem in own if problem in rival]
    right = [[_average([r.correct for r in of[p]]) for p in shared] for of in (own, rival)]
    return paired(*right)


def _average(numbers: Sequence[float]) -> float:
    return sum(numbers) / len(numbers)


def longer(own: Samples, full: Samples) -> Estimate:
    """How much longer the traces are than the full cache's, in percent."""
    shared = [problem for problem in own if problem in full]
    mine, theirs = ([_average([r.new_tokens for r in of[p]]) for p in shared] for of in (own, full))
    more = mean([a - b for a, b in zip(mine, theirs, strict=True)])
    return more.scaled(100 / _average(theirs))


if __name__ == "__main__":
    typer.run(main)
