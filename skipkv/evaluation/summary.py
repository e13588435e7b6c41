"""Tables of records: a row per cell, compared with the full cache."""

import csv
import importlib
import io
from collections import Counter
from collections.abc import Container, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import attrs

from skipkv._runs import RECORDS, RUN, RunFolder, csv_cell, markdown_cell, require_extra
from skipkv.errors import InputError
from skipkv.evaluation.cells import Cell
from skipkv.evaluation.failures import Failure, failure_table, read_failures
from skipkv.evaluation.intervals import Estimate, mean, mean_share, paired, proportion
from skipkv.evaluation.pass_at import ks, pass_at
from skipkv.evaluation.records import Record, read_records

SHARDS = "shards"
"""The folder of shards, inside that of a sweep."""
TIMING = ("tokens_per_second",)
"""The columns that differ between runs."""


def folder_at(path: str | Path) -> RunFolder:
    """The folder of a sweep.

    Args:
        path: its path; the folder need not exist.
    """
    return RunFolder(
        path,
        "eval",
        outputs=("summary.md", "summary.csv"),
        holds={"model": str, "cells": list, "sessions": list},
    )


UNGRADED = "(not graded)"
"""The known answer of a problem whose answers only others can grade."""


@attrs.frozen(kw_only=True)
class Row:
    """The results of one cell. A failed sample counts as wrong, and is left out of other numbers
    but for the speed, which is that of all sequences decoded together.

    Args:
        cell: policy, budget and data set.
        problems: number of problems.
        samples: number of samples of all problems.
        missing: number of samples not decoded yet.
        failed: number of samples that ended with an error: a part of the policy failed, or the
            prompt could not be decoded.
        accuracy: share of right answers (pass@1): the mean over samples, then over problems.
        difference: difference to the full cache's accuracy over the same problems; None for the
            full cache.
        new_tokens: tokens decoded per sample.
        trace: mean length of prompt and decoded tokens together.
        budget_percent: the budget in percent of the full cache's `trace`.
        truncated: share of samples cut off at the length limit.
        accuracy_ended: share of right answers among the samples that were not cut off and did not
            fail; None where there are none.
        passes: (k, pass@k): the chance that one of k samples is right, for some k up to the
            samples per problem; empty where there is one, or where problems lack samples.
        execution: mean number of execution thoughts.
        non_execution: mean number of reflections and transitions.
        events: mean number of compression events.
        evicted: mean number of entries dropped, over all layers and heads.
        mean_entries: the effective KV budget: entries per head that a decode step attended to.
        peak_entries: the most entries a head held.
        peak_kv_bytes: the most bytes of keys and values per sequence, as measured.
        tokens_per_second: decoded tokens per second of all sequences together.
        graded: whether there were answers to compare with; without, nothing counts as right.
    """

    cell: Cell
    problems: int
    samples: int
    missing: int = 0
    failed: int = 0
    accuracy: Estimate
    difference: Estimate | None = None
    new_tokens: Estimate
    trace: float
    budget_percent: float | None = None
    truncated: float
    accuracy_ended: float | None = None
    passes: tuple[tuple[int, float], ...] = ()
    execution: float
    non_execution: float
    events: float
    evicted: float
    mean_entries: float
    peak_entries: int
    peak_kv_bytes: int
    tokens_per_second: float
    graded: bool = True


@attrs.frozen(kw_only=True)
class Summary:
    """All rows of a folder, by data set, with the full cache first.

    Args:
        model: name of the model.
        sampling: temperature, top_p, top_k, seed and samples per problem.
        rows: one per cell that has a sample.
        failures: samples that were traced because the full cache solves them and a policy does not.
        waiting: cells of the sweep without a sample yet, which have no row.
        vouched: a note for each cell with samples of a policy that was described otherwise, and of
            which the user said that it does the same.
    """

    model: str
    sampling: Mapping[str, Any]
    rows: tuple[Row, ...]
    failures: tuple[Failure, ...] = ()
    waiting: tuple[Cell, ...] = ()
    vouched: tuple[str, ...] = ()

    @classmethod
    def of_folder(cls, folder: Path) -> "Summary":
        """The summary of what a sweep has written so far.

        Raises:
            InputError: the folder holds no sweep, or no finished sample.
        """
        run = folder_at(folder).read()
        if run is None:
            joins = f" `skipkv eval --merge {folder}` joins the shards that are there."
            raise InputError(
                f"{folder} holds no sweep: it has no {RUN}."
                + (joins if (folder / SHARDS).is_dir() else "")
            )
        records, _ = read_records(folder / RECORDS)
        _check(records, {Cell.of(entry) for entry in run["cells"]}, folder / RECORDS)
        if not records:
            raise InputError(f"{folder} holds no finished sample yet. Let the sweep run.")
        settings = run["settings"]
        wanted = {
            name: data["problems"] * settings["sampling"]["samples"]
            for name, data in settings["data"].items()
        }
        cells = [Cell.of(entry) for entry in run["cells"]]
        begun = {record.cell for record in records}
        return cls(
            model=run["model"],
            sampling=settings["sampling"],
            rows=tuple(rows_of(records, cells, wanted)),
            failures=tuple(read_failures(folder)),
            waiting=tuple(cell for cell in cells if cell not in begun),
            vouched=tuple(
                f"Vouched for: {markdown_cell(str(Cell.of(entry)))} had {before['samples']} "
                "samples when its policy was described otherwise "
                f"({markdown_cell(before['changed'])}). --same-policies says that both do the same."
                for entry in run["cells"]
                for before in entry.get("earlier", ())
            ),
        )

    @property
    def doubts(self) -> list[str]:
        """What makes a row less than it seems: samples that are missing or failed, many that were
        cut off, or a budget under which nothing was evicted. Also rows that are not there yet.
        """
        found = [note for data in self.data for note in _doubts(self.of(data))]
        return [*found, *self._waiting()]

    def _waiting(self) -> list[str]:
        return [
            f"Not begun: {markdown_cell(str(cell))} has no sample yet, and no row."
            for cell in self.waiting
        ]

    def to_pandas(self) -> Any:
        """A `DataFrame` with a row per cell and the columns of `csv`; NaN where a row has no value.

        Raises:
            MissingExtraError: pandas is not installed.
        """
        require_extra("pandas", "pandas")
        pandas: Any = importlib.import_module("pandas")
        return pandas.DataFrame([_flat(row) for row in self.rows])

    @property
    def data(self) -> list[str]:
        """The data sets, in order."""
        return list(dict.fromkeys(row.cell.data for row in self.rows))

    def of(self, data: str) -> list[Row]:
        """The rows of a data set."""
        return [row for row in self.rows if row.cell.data == data]

    def row(self, policy: str, budget: str | int | None = None, data: str | None = None) -> Row:
        """One row.

        Args:
            policy: its label.
            budget: the requested budget; None for the full cache.
            data: the data set, if there are several.

        Raises:
            KeyError: there is no such row, or more than one.
        """
        asked = None if budget is None else str(budget)
        found = [
            row
            for row in self.rows
            if (row.cell.policy, row.cell.asked) == (policy, asked)
            and data in (None, row.cell.data)
        ]
        if len(found) != 1:
            raise KeyError(f"{len(found)} rows of policy {policy} at {asked} on {data}")
        return found[0]

    def csv(self) -> str:
        """All columns, with both ends of every interval, for programs to read."""
        lines = [_flat(row) for row in self.rows]
        text = io.StringIO()
        names = list(dict.fromkeys(name for line in lines for name in line))
        writer = csv.DictWriter(text, fieldnames=names, restval="", lineterminator="\n")
        writer.writeheader()
        for line in lines:
            writer.writerow({k: csv_cell(v) if isinstance(v, str) else v for k, v in line.items()})
        return text.getvalue()

    def markdown(self) -> str:
        """A table for every data set, for people to read."""
        greedy = self.sampling["temperature"] == 0
        how = "greedy" if greedy else ", ".join(f"{k} {v}" for k, v in self.sampling.items())
        name = markdown_cell(self.model)
        parts = [f"# Evaluation of {name}\n\nDecoding: {how}. {_LEGEND}\n"]
        for data in self.data:
            rows = self.of(data)
            parts.append(f"## {markdown_cell(data)}\n\n{_table(rows)}\n")
            if any(row.passes for row in rows) or any(row.truncated for row in rows):
                parts.append(f"{_samples_table(rows)}\n")
            parts += [f"{note}\n" for note in _notes(rows)]
            if failures := [f for f in self.failures if f.data == data]:
                parts.append(f"Solved by the full cache only:\n\n{failure_table(failures)}\n")
        parts += [f"{note}\n" for note in (*self.vouched, *self._waiting())]
        return "\n".join(parts)


def _check(records: Iterable[Record], cells: Container[Cell], path: Path) -> None:
    """Raise for records that no table may be made of."""
    seen = set()
    for record in records:
        sample = (record.cell, record.problem, record.sample)
        name = f"{record.cell}: problem {record.problem}, sample {record.sample}"
        if sample in seen:
            raise InputError(f"{path} has {name} twice. Move the folder away, or drop a line.")
        if record.cell not in cells:
            raise InputError(
                f"{path} has {name}, and {RUN} does not say with which policy it was made. Were "
                "two folders joined by hand? `skipkv eval --merge` joins shards."
            )
        seen.add(sample)


def rows_of(
    records: Sequence[Record], cells: Iterable[Cell], wanted: Mapping[str, int]
) -> list[Row]:
    """A row for every cell that has a record.

    Args:
        records: records in any order.
        cells: all cells. Rows are sorted by data set, then the full cache first, then policies in
            this order, with rising budgets.
        wanted: samples of a complete cell, per data set.
    """
    by_cell: dict[Cell, list[Record]] = {}
    for record in records:
        by_cell.setdefault(record.cell, []).append(record)
    cells = list(cells)
    data = list(dict.fromkeys(cell.data for cell in cells))
    policies = list(dict.fromkeys(cell.policy for cell in cells))
    cells.sort(
        key=lambda c: (
            data.index(c.data),
            not c.is_full,
            policies.index(c.policy),
            c.budget or 0,
        )
    )
    full = {cell.data: by_cell.get(cell, []) for cell in cells if cell.is_full}
    return [
        _row(cell, by_cell[cell], full.get(cell.data, []), wanted[cell.data])
        for cell in cells
        if cell in by_cell
    ]


def _row(cell: Cell, records: list[Record], full: list[Record], wanted: int) -> Row:
    right = _by_problem(records, "correct")
    count = len(records)
    ended = [r for r in records if not r.failed] or records
    done = [r for r in full if not r.failed]
    length = _mean([r.prompt_tokens + r.new_tokens for r in done]) if done else None
    wall = sum(r.wall_seconds for r in records)  # a failed sample's is that of its neighbours too
    return Row(
        cell=cell,
        problems=len(right),
        samples=count,
        missing=wanted - count,
        failed=sum(r.failed for r in records),
        accuracy=(
            proportion(sum(r.correct for r in records), count)
            if len(right) == count
            else mean_share(list(right.values()))
        ),
        difference=None if cell.is_full else _difference(right, _by_problem(full, "correct")),
        new_tokens=mean(list(_by_problem(ended, "new_tokens").values())),
        trace=_mean([r.prompt_tokens + r.new_tokens for r in ended]),
        budget_percent=None if not length or cell.budget is None else 100 * cell.budget / length,
        truncated=_mean([r.stop_reason == "length" for r in ended]),
        accuracy_ended=_accuracy_ended(records),
        passes=_passes(records),
        execution=_mean([r.execution for r in ended]),
        non_execution=_mean([r.non_execution for r in ended]),
        events=_mean([r.events for r in ended]),
        evicted=_mean([r.evicted for r in ended]),
        mean_entries=_mean([r.mean_entries for r in ended]),
        peak_entries=max(r.peak_entries for r in ended),
        peak_kv_bytes=max(r.peak_kv_bytes for r in ended),
        tokens_per_second=sum(r.new_tokens for r in records) / wall if wall else 0.0,
        graded=any(r.gold != UNGRADED for r in records),
    )


def _accuracy_ended(records: Iterable[Record]) -> float | None:
    ended = [r.correct for r in records if r.stop_reason not in ("length", "error")]
    return _mean(ended) if ended else None


def _passes(records: Iterable[Record]) -> tuple[tuple[int, float], ...]:
    """pass@k over problems, which must all have the same number of samples."""
    right: Counter[str] = Counter()
    samples: Counter[str] = Counter()
    for record in records:
        right[record.problem] += record.correct
        samples[record.problem] += 1
    if len(counts := set(samples.values())) != 1:
        return ()
    [count] = counts
    return tuple((k, _mean([pass_at(right[p], count, k) for p in samples])) for k in ks(count))


def _by_problem(records: Iterable[Record], field: str) -> dict[str, float]:
    """Problem -> mean over its samples, sorted, so that the order of records has no effect."""
    values: dict[str, list[float]] = {}
    for record in records:
        values.setdefault(record.problem, []).append(getattr(record, field))
    return {problem: _mean(values[problem]) for problem in sorted(values)}


def _difference(own: Mapping[str, float], full: Mapping[str, float]) -> Estimate | None:
    shared = [problem for problem in own if problem in full]
    if not shared:
        return None
    return paired([own[p] for p in shared], [full[p] for p in shared])


def _mean(values: Sequence[float | int]) -> float:
    # summed in a fixed order, so that the order of records does not change even the last digit
    return sum(sorted(values)) / len(values)


_LEGEND = (
    "Accuracy is pass@1; the difference is to the full cache on the same problems, in percentage "
    "points. In brackets: 95 % intervals. Length is in decoded tokens. Effective budget is "
    "the mean number of entries per KV head that a decode step attended to. Memory is that of keys "
    "and values per sequence, as measured; speed is of all sequences decoded together."
)

_MANY = 0.1
"""The share of samples cut off beyond which an accuracy says little."""
_HEAD = (
    "policy",
    "budget",
    "% of full trace",
    "accuracy %",
    "difference",
    "length",
    "truncated %",
    "non-execution thoughts",
    "events",
    "entries evicted",
    "effective budget",
    "peak KV MB",
    "tokens/s",
)


def _table(rows: Iterable[Row]) -> str:
    lines = [_HEAD, tuple("---" if i < 2 else "--:" for i in range(len(_HEAD)))]
    lines += [_written(row) for row in rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _written(row: Row) -> tuple[str, ...]:
    accuracy = row.accuracy.scaled(100)
    difference = "-"
    if row.difference is not None:
        points = row.difference.scaled(100)
        difference = f"{points.value:+.1f} [{points.low:+.1f}, {points.high:+.1f}]"
    return (
        markdown_cell(row.cell.policy),
        "-" if row.cell.budget is None else str(row.cell.budget),
        "-" if row.budget_percent is None else f"{row.budget_percent:.0f}",
        f"{accuracy.value:.1f} [{accuracy.low:.1f}, {accuracy.high:.1f}]",
        difference,
        f"{row.new_tokens.value:.0f}",
        f"{100 * row.truncated:.1f}",
        f"{row.non_execution:.1f}",
        f"{row.events:.1f}",
        f"{row.evicted:.0f}",
        f"{row.mean_entries:.0f}",
        _megabytes(row.peak_kv_bytes),
        f"{row.tokens_per_second:.0f}",
    )


def _megabytes(size: int) -> str:
    """Three digits, or all those before the point."""
    return f"{size / 1e6:.0f}" if size >= 1e8 else f"{size / 1e6:.3g}"


def _samples_table(rows: Sequence[Row]) -> str:
    """Accuracy among the samples that ended, and pass@k."""
    counts = [k for k, _ in max((row.passes for row in rows), key=len)]
    head = ["policy", "budget", "accuracy among ended %", *(f"pass@{k} %" for k in counts)]
    lines = [head, ["---", "---", *["--:"] * (len(head) - 2)]]
    for row in rows:
        passes = dict(row.passes)
        shares = [row.accuracy_ended, *(passes.get(k) for k in counts)]
        lines.append(
            [
                markdown_cell(row.cell.policy),
                "-" if row.cell.budget is None else str(row.cell.budget),
                *("-" if share is None else f"{100 * share:.1f}" for share in shares),
            ]
        )
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _notes(rows: Sequence[Row]) -> list[str]:
    return [f"{rows[0].problems} problems, {rows[0].samples} samples per row.", *_doubts(rows)]


def _doubts(rows: Sequence[Row]) -> list[str]:
    notes = []
    if rows and not rows[0].graded:
        notes.append(
            "Not graded: the answers are programs. Accuracy, difference and pass@k say nothing: "
            "skipkv.integrations.livecodebench grades them."
        )
    for row in rows:
        name = markdown_cell(str(row.cell).partition(": ")[2])
        if row.missing > 0:
            notes.append(f"Incomplete: {name} lacks {row.missing} samples.")
        if row.failed:
            notes.append(
                f"Failed: {row.failed} samples of {name} ended with an error; they count as wrong. "
                f"{RECORDS} has the errors; --retry-failed decodes these samples again."
            )
        if row.truncated > _MANY:
            notes.append(
                f"Cut off: {row.truncated:.0%} of {name} reached --max-new-tokens, and have no "
                "answer. Raise it, or read the accuracy among those that ended."
            )
        if row.cell.budget is not None and row.evicted == 0 and row.failed < row.samples:
            notes.append(
                f"Nothing was evicted under {name}: no trace outgrew the budget, so the row is "
                "that of a full cache."
            )
    return notes


def _flat(row: Row) -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for field in attrs.fields(Row):
        value = getattr(row, field.name)
        if isinstance(value, Cell):
            flat.update(attrs.asdict(value))
        elif field.name == "passes":
            flat.update({f"pass_at_{k}": share for k, share in value})
        elif field.name in ("accuracy", "difference", "new_tokens"):
            for end in ("value", "low", "high"):
                name = field.name if end == "value" else f"{field.name}_{end}"
                flat[name] = None if value is None else getattr(value, end)
        else:
            flat[field.name] = value
    return flat
