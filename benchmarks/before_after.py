"""Two versions of skipkv beside each other, from the folders of `skipkv bench` of both.

    python benchmarks/before_after.py runs/before runs/after

Make the folders with the same options, a few rounds with one version and then with the other, over
and over: a larger `--repeats` goes on in a folder. A shared machine changes its speed. So the row
of the floor says how far milliseconds can be compared, and the costs are ratios to the floor of the
same round.
"""

from pathlib import Path
from typing import Annotated

import typer

from skipkv.benchmark import Row, Spread, Summary

Case = tuple[str, int]
"""A subject and its batch size."""


def main(
    before: Annotated[Path, typer.Argument(help="A folder of `skipkv bench`.")],
    after: Annotated[Path, typer.Argument(help="One of another version.")],
) -> None:
    """Print a table of both, case by case."""
    print(table(rows(before), rows(after)))


def rows(folder: Path) -> dict[Case, Row]:
    """The results of a folder by subject and batch size."""
    return {(r.case.subject, r.case.batch_size): r for r in Summary.of_folder(folder).rows}


def table(before: dict[Case, Row], after: dict[Case, Row]) -> str:
    """The medians of the cases that both have, in Markdown."""
    lines = [
        "| subject | batch | ms/step: before | after | ms/event: before | after "
        "| cost / floor: before | after |",
        "|---|--:|--:|--:|--:|--:|--:|--:|",
    ]
    for (subject, batch), old in before.items():
        if new := after.get((subject, batch)):
            cells = [
                shown(spread, factor)
                for old_one, new_one, factor in (
                    (old.step, new.step, 1e3),
                    (old.event, new.event, 1e3),
                    (old.cost, new.cost, 1),
                )
                for spread in (old_one, new_one)
            ]
            lines.append(f"| {subject} | {batch} | {' | '.join(cells)} |")
    return "\n".join(lines)


def shown(spread: Spread | None, factor: float) -> str:
    """A median; a dash where nothing was measured."""
    return f"{spread.median * factor:.2f}" if spread and spread.median else "-"


if __name__ == "__main__":
    typer.run(main)
