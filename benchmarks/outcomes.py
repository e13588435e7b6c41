"""What came of every sample of a sweep, small enough to be kept with the project.

A run's folder has the texts and is thrown away. Of each cell a line stays here: what became of each
sample, and how long it was. Tables and paired intervals are made from these lines, so that
a sweep can be measured in parts, on several machines, and read by others without decoding it again.
"""

import json
import re
from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path

import attrs

from skipkv.evaluation import Estimate
from skipkv.evaluation.intervals import mean, mean_share, paired

FOLDER = Path(__file__).parent / "outcomes"


@attrs.frozen(kw_only=True)
class Outcomes:
    """One policy at one budget: what came of every sample, by problem and then by sample.

    Args:
        policy: label of the policy.
        asked: its budget in percent of the full cache's mean trace; None for the full cache.
        budget: the same in tokens.
        composition: the policy as Python shows it.
        versions: of the packages that decoded it.
        samples: of each problem.
        kinds: what each sample died of, by name, as lists of the samples' numbers; "right" is left
            out.
        tokens: decoded of each sample.
        counts: name -> what else was counted in each sample.
    """

    policy: str
    asked: str | None
    budget: int | None
    composition: str
    versions: dict[str, str]
    samples: int
    kinds: dict[str, list[int]]
    tokens: list[int]
    counts: dict[str, list[int]]

    @cached_property
    def wrong(self) -> frozenset[int]:
        """The numbers of the samples that are not right."""
        return frozenset(n for some in self.kinds.values() for n in some)

    @property
    def accuracies(self) -> list[float]:
        """The share of right samples of each problem."""
        return self._by_problem([float(n not in self.wrong) for n in range(len(self.tokens))])

    @property
    def lengths(self) -> list[float]:
        """The mean number of tokens of each problem's samples."""
        return self._by_problem(self.tokens)

    @property
    def accuracy(self) -> Estimate:
        """The share of right samples, in percent."""
        return mean_share(self.accuracies).scaled(100)

    def points_to(self, other: "Outcomes") -> Estimate:
        """How much more of the samples are right, in points, paired over problems."""
        return paired(self.accuracies, other.accuracies).scaled(100)

    def longer_than(self, other: "Outcomes") -> Estimate:
        """How much longer the traces are, in percent, paired over problems."""
        theirs = other.lengths
        more = mean([a - b for a, b in zip(self.lengths, theirs, strict=True)])
        return more.scaled(100 * len(theirs) / sum(theirs))

    def share(self, kind: str) -> float:
        """The samples of a kind, in percent of all."""
        count = len(self.kinds.get(kind, ()))
        if kind == "right":
            count = len(self.tokens) - len(self.wrong)
        return 100 * count / len(self.tokens)

    def _by_problem(self, values: Sequence[float]) -> list[float]:
        groups = range(0, len(values), self.samples)
        return [sum(values[n : n + self.samples]) / self.samples for n in groups]


Key = tuple[str, str | None]
"""A policy's label and its budget in percent."""


class OutcomesFolder:
    """The outcomes of one sweep: a file for each policy, a line for each of its budgets.

    Args:
        path: the folder.
        settings: what all cells must share, such as the data's fingerprint.
    """

    def __init__(self, path: Path, settings: dict[str, object]) -> None:
        self._path = path
        path.mkdir(parents=True, exist_ok=True)
        there = path / "settings.json"
        if not there.exists():
            there.write_text(json.dumps(settings, indent=2) + "\n")
        if (known := json.loads(there.read_text())) != settings:
            raise ValueError(f"{path} holds outcomes of other settings: {known}, not {settings}.")

    def read(self) -> dict[Key, Outcomes]:
        """All cells, by label and budget."""
        return {(cell.policy, cell.asked): cell for cell in self._all()}

    def add(self, cell: Outcomes) -> None:
        """Write a cell, in place of an earlier one of the same policy and budget."""
        cells = {key: c for key, c in self.read().items() if key[0] == cell.policy}
        cells[cell.policy, cell.asked] = cell
        ordered = sorted(cells.values(), key=lambda c: c.budget or 0)
        lines = [json.dumps(attrs.asdict(c), separators=(",", ":")) + "\n" for c in ordered]
        (self._path / f"{_file_name(cell.policy)}.jsonl").write_text("".join(lines))

    def _all(self) -> Iterator[Outcomes]:
        for file in sorted(self._path.glob("*.jsonl")):
            for line in file.read_text().splitlines():
                yield Outcomes(**json.loads(line))


def _file_name(label: str) -> str:
    return re.sub(r"[^a-z0-9.]+", "-", label.lower()).strip("-")
