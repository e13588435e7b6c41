"""Right and wrong traces of one problem: observations 4 and 5 on the rambling reasoner.

    python benchmarks/within_problem.py runs/rambler

The folder is that of `benchmarks/rambler.py`, where `--again` decodes what is needed. Only its
records are read. Where one sample of a problem is right and another one is wrong, chance alone made
the difference, so a hard problem cannot explain what they differ in. About two minutes.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated

import torch
import typer
from observed.numbers import mean_of, shown, table
from observed.similar import counted, tables_of
from pages import DOCS, insert

from skipkv.evaluation import Record, load_dataset
from skipkv.evaluation.prompts import encode
from skipkv.evaluation.records import read_records
from skipkv.tiny import rambler

THRESHOLD = 0.9
"""Above it sentences of this model count as alike."""

SHOWN = {
    "full cache": ("full", None),
    "random, 8 %": ("random", "8%"),
    "R-KV, 8 %": ("rkv", "8%"),
    "R-KV, 13 %": ("rkv", "13%"),
    "R-KV, 25 %": ("rkv", "25%"),
    "attended_distinct, 8 %": ("attended_distinct", "8%"),
}
COLUMNS = {
    "tokens": ("tokens", 0, False),
    "thoughts": ("non-execution thoughts", 2, False),
    "share": ("of all thoughts, points", 1, True),
    "pairs": (f"pairs above {THRESHOLD}", 1, False),
    "repeated": ("sentences repeated later, points", 1, True),
}
"""Measure -> its name, its digits, and whether it is a share."""

Pair = tuple[list[Record], list[Record]]


def pairs(records: Sequence[Record]) -> list[Pair]:
    """The right and the wrong samples of each problem that has both; those cut off are neither."""
    found: dict[str, Pair] = {}
    for record in records:
        if record.stop_reason == "eos":
            found.setdefault(record.problem, ([], []))[not record.correct].append(record)
    return [both for _, both in sorted(found.items()) if all(both)]


def measured(records: Sequence[Record]) -> dict[tuple[str, int], Mapping[str, float]]:
    """What is measured of each trace, by its problem and sample."""
    model, tokenizer = rambler.load(device="cpu")
    data = load_dataset("rambler", limit=500, seed=0)
    ids = encode(data, tokenizer).ids
    prompts = [ids[int(record.problem)] for record in records]
    tables = tables_of(model, tokenizer, prompts, [record.text for record in records])
    return {
        (record.problem, record.sample): {
            "tokens": record.new_tokens,
            "thoughts": record.non_execution,
            "share": record.non_execution / max(1, record.execution + record.non_execution),
            **counted(sentences, THRESHOLD),
        }
        for record, sentences in zip(records, tables, strict=True)
    }


def gaps(both: Sequence[Pair]) -> dict[str, list[float]]:
    """Wrong less right for every measure: mean over problems, with its interval."""
    values = measured([record for right, wrong in both for record in (*right, *wrong)])

    def of(records: Sequence[Record], key: str) -> float:
        return sum(values[r.problem, r.sample][key] for r in records) / len(records)

    return {
        key: mean_of(of(wrong, key) - of(right, key) for right, wrong in both) for key in COLUMNS
    }


def main(
    folder: Annotated[Path, typer.Argument(help="Folder of benchmarks/rambler.py.")],
    page: Annotated[bool, typer.Option(help="Write docs/observations.md.")] = True,
) -> None:
    """Compare right and wrong samples of the same problems."""
    torch.set_num_threads(1)
    cells: dict[tuple[str, str | None], list[Record]] = {}
    for record in read_records(folder / "records.jsonl")[0]:
        cells.setdefault((record.policy, record.asked), []).append(record)
    rows = []
    for name, cell in SHOWN.items():
        both = pairs(cells[cell])
        found = gaps(both)
        rows.append(
            (
                name,
                len(both),
                *(
                    shown(found[key], digits, percent=share, sign="+")
                    for key, (_, digits, share) in COLUMNS.items()
                ),
            )
        )
    head = ("wrong less right", "problems", *(name for name, _, _ in COLUMNS.values()))
    text = table(head, rows)
    if page:
        insert(DOCS / "observations.md", "within", text)
    else:
        print(text)


if __name__ == "__main__":
    typer.run(main)
