"""Samples that the full cache solves and a policy does not: the list of those traced."""

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from urllib.parse import quote

import attrs

from skipkv._runs import markdown_cell, writing
from skipkv.errors import InputError

FOLDER = "failures"
"""The folder of traces and pages, inside that of the sweep."""
_INDEX = "failures.json"


@attrs.frozen(kw_only=True)
class Failure:
    """A sample that the full cache solves and a policy does not.

    Args:
        data: name of the data set.
        policy: label of the policy.
        asked: the requested budget; None if the policy takes none.
        problem: id of the problem.
        sample: number of the sample.
        page: file of the page with both traces, in the folder of failures.
        differs: the first decoded token that differs, counted from 0; None where no token does.
        instead: that token's text under the full cache, and under the policy.
        same: whether both were decoded for the trace as for the record. On some devices a batch of
            another size rounds in another way.
    """

    data: str
    policy: str
    asked: str | None
    problem: str
    sample: int
    page: str
    differs: int | None
    instead: Sequence[str]
    same: bool

    @property
    def key(self) -> tuple[str, str, str | None, str, int]:
        """What it is the failure of."""
        return self.data, self.policy, self.asked, self.problem, self.sample


def read_failures(folder: Path) -> list[Failure]:
    """The failures that a sweep has traced.

    Args:
        folder: the sweep's folder.

    Raises:
        InputError: the list is damaged.
    """
    path = folder / FOLDER / _INDEX
    if not path.exists():
        return []
    try:
        return [Failure(**entry) for entry in json.loads(path.read_text(encoding="utf-8"))]
    except (OSError, ValueError, TypeError) as error:
        raise InputError(
            f"{path} is no list of failures ({error}). Delete {path.parent} and run "
            "`skipkv eval --trace-failures` again."
        ) from error


def write_failures(folder: Path, failures: Iterable[Failure]) -> None:
    """Write the list of failures.

    Args:
        folder: the sweep's folder.
        failures: all of them.

    Raises:
        InputError: it cannot be written.
    """
    path = folder / FOLDER / _INDEX
    with writing(path):
        path.write_text(json.dumps([attrs.asdict(f) for f in failures], indent=1), encoding="utf-8")


def failure_table(failures: Sequence[Failure]) -> str:
    """A table in Markdown, with a link to the page of each.

    Args:
        failures: those of one data set.
    """
    lines = ["| policy | budget | problem | sample | differs from the full cache | page |"]
    lines.append("|---|---|---|--:|---|---|")
    for failure in failures:
        where = "nowhere"
        if failure.differs is not None:
            full, own = (markdown_cell(repr(text)) for text in failure.instead)
            where = f"token {failure.differs}: {own} instead of {full}"
        if not failure.same:
            where += " (decoded for the trace as another text)"
        cells = [
            markdown_cell(failure.policy),
            failure.asked or "-",
            markdown_cell(failure.problem),
            str(failure.sample),
            where,
            f"[trace]({FOLDER}/{quote(failure.page)})",
        ]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)
