"""What each term of `presets.attended_distinct` is worth; the ablation of docs/own.md.

    python benchmarks/own.py --output runs/own --model MODEL --texts math500.jsonl
    python benchmarks/own.py --output runs/own-tiny --rivals

Accuracy on the embedded model, and fidelity on MODEL where one is given (a folder, a hub id or a
.gguf file; the texts are those of benchmarks/fidelity.py). It resumes an earlier run in the same
folder. With `--rivals` it prints how much more the preset solves than each other policy of a folder
that `skipkv eval` wrote, problem by problem.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any

import fidelity
import torch
import typer
from ablation import gap
from pages import DOCS, insert, interval

from skipkv import Policy, presets, tiny
from skipkv.evaluation import Record, Sweep, load_dataset
from skipkv.evaluation.records import read_records
from skipkv.fidelity import Comparison, compare
from skipkv.models import load
from skipkv.scorers import (
    AccumulatedAttention,
    AttentionRate,
    KeyRedundancy,
    Scorer,
    WindowAttention,
)

SHARES, BUDGETS = "20%,30%,40%", (64, 160)
OURS = "attended_distinct"


def main(
    output: Annotated[Path, typer.Option(help="Folder of records and tables.")],
    model: Annotated[str | None, typer.Option(help="For fidelity.")] = None,
    texts: Annotated[Path | None, typer.Option(help="JSON lines with problems, for it.")] = None,
    limit: Annotated[int, typer.Option(help="How many problems.")] = 200,
    page: Annotated[bool, typer.Option(help="Write docs/own.md.")] = True,
    rivals: Annotated[bool, typer.Option(help="Compare what the folder holds instead.")] = False,
    of: Annotated[str, typer.Option(help="With --rivals: whose lead is printed.")] = OURS,
) -> None:
    """Measure the preset without each of its terms."""
    if rivals:
        print(leads(read_records(output / "records.jsonl")[0], of))
        return
    torch.set_num_threads(1)
    sweep = Sweep(data=load_dataset("tiny", limit=limit), policies=variants(), budgets=SHARES)
    done = sweep.run(*tiny.load(device="cpu"), output / "tiny", model_name="tiny")
    found = {
        label: [f"{100 * row.accuracy.value:.1f}" for row in done.rows if row.cell.policy == label]
        for label in variants()
    }
    heads = [f"accuracy at {share}" for share in SHARES.split(",")]
    if model is not None and texts is not None:
        near = compare(
            *load(model),
            fidelity.texts(texts, 12),
            Comparison(
                policies=[
                    (label, make(budget, fidelity.INTERVAL))
                    for label, make in variants().items()
                    for budget in BUDGETS
                ],
                prompt_tokens=fidelity.PROMPT,
                max_tokens=fidelity.TOKENS,
                batch_size=6,
            ),
            folder=output / "fidelity",
        )
        for label, cells in found.items():
            cells += [
                f"{row.kl.value:.3f}"
                for budget in BUDGETS
                for row in near.rows
                if (row.policy, row.budget) == (label, budget)
            ]
        heads += [f"KL at {budget}" for budget in BUDGETS]
    lines = [f"| | {' | '.join(heads)} |", "|---|" + "--:|" * len(heads)]
    lines += [f"| {label} | {' | '.join(cells)} |" for label, cells in found.items()]
    table = "\n".join(lines)
    if page:
        insert(DOCS / "own.md", "ablation", table)
    else:
        print(table)


def leads(records: Sequence[Record], policy: str) -> str:
    """How many points more a policy solves than each other one, by budget, in Markdown."""
    cells: dict[tuple[str, str], dict[str, list[Record]]] = {}
    for record in records:
        if record.asked is not None:
            cell = cells.setdefault((record.policy, record.asked), {})
            cell.setdefault(record.problem, []).append(record)
    lines = ["| less than | budget | points |", "|---|--:|--:|"]
    for (rival, asked), theirs in cells.items():
        own = cells.get((policy, asked))
        if own is not None and rival != policy:
            points = interval(gap(own, theirs).scaled(100), "+.1f")
            lines.append(f"| {rival} | {asked} | {points} |")
    return "\n".join(lines)


def variants() -> dict[str, Callable[[int, int], Policy]]:
    """The preset, and what it is without a term or with another in its place, by labels."""
    attention = AttentionRate().normalized()
    repeats = KeyRedundancy(unrotated=True).normalized()

    def ours(**changes: Any) -> Callable[[int, int], Policy]:
        return lambda budget, interval: presets.attended_distinct(
            budget, interval=interval, **changes
        )

    def scored(scorer: Scorer) -> Callable[[int, int], Policy]:
        return lambda budget, interval: ours()(budget, interval).with_(scorer=scorer)

    return {
        OURS: ours(),
        "attention alone": scored(attention),
        "repeats alone": scored(-repeats),
        "keys as cached, after RoPE": scored(attention - 1.5 * KeyRedundancy().normalized()),
        "the sum of attention, not its rate": scored(
            AccumulatedAttention().normalized() - 1.5 * repeats
        ),
        "the last 8 queries' attention": scored(
            WindowAttention(window=8).normalized() - 1.5 * repeats
        ),
        "attention pooled over 3 slots": ours(pool=3),
        "a window of 8": ours(window=8),
        "4 sinks": ours(sinks=4),
        "redundancy=1": ours(redundancy=1.0),
        "redundancy=2": ours(redundancy=2.0),
    }


if __name__ == "__main__":
    typer.run(main)
