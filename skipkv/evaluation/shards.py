"""A sweep in several processes: each decodes a part of the problems, and `merge` joins them."""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import attrs

from skipkv._runs import RUN, RunFolder, differs
from skipkv.errors import ConfigError, InputError
from skipkv.evaluation import fingerprints
from skipkv.evaluation.cells import Cell
from skipkv.evaluation.records import Record, RecordFile, read_records
from skipkv.evaluation.summary import SHARDS, folder_at


@attrs.frozen(kw_only=True)
class Shard:
    """One of several parts of a sweep: every `of`-th problem, from the `index`-th on.

    Args:
        index: which part, from 0, as launchers number their processes.
        of: how many parts there are.

    Raises:
        ConfigError: the numbers cannot be.

    Example:
        >>> list(Shard.parse("1/4").places(10))
        [1, 5, 9]
    """

    index: int
    of: int

    def __attrs_post_init__(self) -> None:
        if not 0 <= self.index < self.of:
            raise ConfigError(
                f"Shard {self.index}/{self.of} must be one of 0/{self.of} to "
                f"{self.of - 1}/{self.of}: shards are counted from 0."
            )

    @classmethod
    def parse(cls, text: str) -> "Shard":
        """Read "index/of".

        Raises:
            ConfigError: it is not written so, or the numbers cannot be.
        """
        index, slash, of = text.partition("/")
        if not (slash and index.isdecimal() and of.isdecimal() and int(of)):
            raise ConfigError(f"Shard {text!r} must be written I/N, as in 0/4: part 0 of 4.")
        return cls(index=int(index), of=int(of))

    def places(self, problems: int) -> range:
        """The places of its problems in a data set.

        Args:
            problems: how many the data set has.
        """
        return range(self.index, problems, self.of)

    def folder(self, output: str | Path) -> Path:
        """Where its records are, in the folder of the sweep.

        Args:
            output: the folder of the sweep.
        """
        return Path(output) / SHARDS / f"{self.index}-of-{self.of}"

    def baselines(self, output: str | Path, settings: Mapping[str, Any]) -> Iterator[Record]:
        """What the other shards have of the full cache.

        Args:
            output: the folder of the sweep.
            settings: those of this shard, which the others must have too.

        Raises:
            InputError: another shard has other settings.
        """
        for index in range(self.of):
            other = folder_at(Shard(index=index, of=self.of).folder(output))
            if index == self.index or other.read() is None:
                continue
            other.check(settings)
            records, _ = read_records(other.path / other.records)
            yield from (record for record in records if record.cell.is_full)

    def mean_traces(self, output: str | Path) -> dict[str, float]:
        """The mean lengths of the full cache's traces that any shard has stored.

        Args:
            output: the folder of the sweep.
        """
        found: dict[str, float] = {}
        for index in range(self.of):
            run = folder_at(Shard(index=index, of=self.of).folder(output)).read()
            found |= (run or {}).get("mean_traces", {})
        return found

    def __str__(self) -> str:
        return f"{self.index}/{self.of}"


def mean_trace(records: Iterable[Record], data: str) -> float | None:
    """Mean length of the full cache's traces on a data set, prompt included; None if all failed.

    Args:
        records: of any cells.
        data: name of the data set.
    """
    lengths = [
        r.prompt_tokens + r.new_tokens
        for r in records
        if r.cell.is_full and r.data == data and not r.failed
    ]
    return sum(lengths) / len(lengths) if lengths else None


def merge(folder: str | Path, *, same_policies: bool = False) -> None:
    """Join the shards of a sweep in its folder, as if one process had decoded them all.

    It checks that all shards are there and done, with one model and the same settings and policies,
    that no sample is missing or there twice, and that every sample had its seed.

    Args:
        folder: the folder of the sweep.
        same_policies: join shards whose policies are described otherwise, as by another version of
            skipkv: you say that both do the same. The summary says so.

    Raises:
        InputError: one of these does not hold, or the folder holds samples that no shard has.
    """
    folder = Path(folder)
    shards = _shards(folder)
    runs = {shard: _run(shard, folder) for shard in shards}
    first = runs[shards[0]]
    for shard in shards[1:]:
        _check_alike(shards[0], first, shard, runs[shard], folder)
        _check_policies(shards[0], first, shard, runs[shard], vouched=same_policies)
    parts = [_records(shard, runs[shard], folder) for shard in shards]
    records = [record for part in parts for record in part]
    cells = [Cell.of(entry) for entry in first["cells"]]
    records.sort(key=lambda r: (cells.index(r.cell), _natural(r.problem), r.sample))
    whole = {key: value for key, value in first.items() if key not in ("shard", "sessions")}
    entries = zip(*(run["cells"] for run in runs.values()), strict=True)
    whole["cells"] = [_joined(own, parts) for own in entries]
    whole["mean_traces"] = {}
    for name in first["settings"]["data"]:  # as one process stores them, for budgets still to come
        known = [runs[shard]["mean_traces"].get(name) for shard in shards]
        length = next((k for k in known if k is not None), None) or mean_trace(records, name)
        if length is not None:
            whole["mean_traces"][name] = length
    whole["sessions"] = [session for shard in shards for session in runs[shard]["sessions"]]
    _write(folder_at(folder), whole, records)


def found_shards(folder: str | Path) -> list[Shard]:
    """The shards that a folder holds, begun or done.

    Args:
        folder: the folder of the sweep.
    """
    found = []
    for path in sorted((Path(folder) / SHARDS).glob("*-of-*")):
        index, _, of = path.name.partition("-of-")
        if index.isdecimal() and of.isdecimal() and (path / RUN).exists():
            found.append(Shard(index=int(index), of=int(of)))
    return found


def check_joinable(folder: str | Path) -> None:
    """Raise if a folder holds samples that none of its shards has: `merge` would lose them.

    Args:
        folder: the folder of the sweep.

    Raises:
        InputError: it holds such samples.
    """
    own = folder_at(folder)
    if own.read() is None:
        return
    joined, _ = read_records(own.path / own.records)
    of_shards = [
        record
        for shard in found_shards(folder)
        for record in read_records(shard.folder(folder) / own.records)[0]
    ]
    _check_lost(own, joined, of_shards)


def _check_lost(own: RunFolder, joined: Iterable[Record], of_shards: Sequence[Record]) -> None:
    """Raise if joined samples would be lost, or decoded ones replaced by those that failed."""
    there = {_key(record): record.failed for record in of_shards}
    lost = [
        key
        for key, failed in ((_key(record), record.failed) for record in joined)
        if key not in there or (there[key] and not failed)
    ]
    if lost:
        raise InputError(
            f"{own.path} holds samples that no shard has, as of {min(lost, key=str)[0]}. Move its "
            "run.json and records.jsonl away, and merge again."
        )


def _shards(folder: Path) -> list[Shard]:
    """All shards of a folder; raises if one is missing."""
    found = found_shards(folder)
    if not found:
        raise InputError(
            f"{folder} holds no shards. `skipkv eval --shard I/N --output {folder}` makes them."
        )
    counts = sorted({shard.of for shard in found})
    if len(counts) > 1:
        raise InputError(
            f"{folder}/{SHARDS} holds shards of {' and of '.join(map(str, counts))}. Move those "
            "away that do not belong together."
        )
    every = [Shard(index=index, of=counts[0]) for index in range(counts[0])]
    if missing := [str(shard) for shard in every if shard not in found]:
        raise InputError(
            f"{folder}/{SHARDS} lacks {', '.join(missing)}. Run these shards, or copy their "
            "folders there."
        )
    return every


def _run(shard: Shard, folder: Path) -> dict[str, Any]:
    run = folder_at(shard.folder(folder)).read()
    assert run is not None  # it was found
    state = run.get("shard", {})
    if state.get("waits"):
        raise InputError(
            f"Shard {shard} has decoded the full cache, and waits for the other shards: budgets in "
            "percent are those of all traces. Start the command of every shard once more."
        )
    if not state.get("complete"):
        raise InputError(f"Shard {shard} is not done. Start its command again; it goes on.")
    return run


def _check_alike(
    one: Shard, its: Mapping[str, Any], other: Shard, others: Mapping[str, Any], folder: Path
) -> None:
    """Raise unless two shards belong to the same sweep."""
    folder_at(other.folder(folder)).check(its["settings"])
    then, now = its["settings"]["data"], others["settings"]["data"]
    cells = [[Cell.of(entry) for entry in run["cells"]] for run in (its, others)]
    unlike = {
        "data sets": list(then) != list(now),
        "policies or budgets": cells[0] != cells[1],
        "mean lengths of the full cache's traces": any(
            others["mean_traces"].get(name, length) != length
            for name, length in its["mean_traces"].items()
        ),
    }
    for what, differ in unlike.items():
        if differ:
            raise InputError(
                f"Shards {one} and {other} have different {what}. Start both with one command."
            )


def _check_policies(
    one: Shard, its: Mapping[str, Any], other: Shard, others: Mapping[str, Any], *, vouched: bool
) -> None:
    """Raise if two shards have policies that are described otherwise, unless the user vouches."""
    for then, now in zip(its["cells"], others["cells"], strict=True):
        if (changed := differs(then, now)) and not vouched:
            raise InputError(
                f"Shards {one} and {other}: {Cell.of(then)}: {changed}. Where both do the same, "
                "--same-policies (in Python same_policies=True) joins them, and the summary says "
                "so."
            )


def _joined(
    entries: Sequence[Mapping[str, Any]], parts: Iterable[Sequence[Record]]
) -> dict[str, Any]:
    """A cell's entry, from that of every shard: with all that the user vouched for.

    Args:
        entries: those of the shards.
        parts: the records of the shards.
    """
    first, cell = entries[0], Cell.of(dict(entries[0]))
    earlier: Counter[str] = Counter()
    for entry, records in zip(entries, parts, strict=True):
        for before in entry.get("earlier", ()):
            earlier[before["changed"]] += before["samples"]
        if changed := differs(entry, first):
            earlier[changed] += sum(record.cell == cell for record in records)
    listed = [{"changed": changed, "samples": count} for changed, count in earlier.items()]
    return {**first, **({"earlier": listed} if listed else {})}


def _records(shard: Shard, run: Mapping[str, Any], folder: Path) -> list[Record]:
    """A shard's records; raises if they are not those that it was to make."""
    settings = run["settings"]
    samples = settings["sampling"]["samples"]
    records, _ = read_records(shard.folder(folder) / folder_at(folder).records)
    count = Counter(record.cell for record in records)
    for cell in map(Cell.of, run["cells"]):
        wanted = len(shard.places(settings["data"][cell.data]["problems"])) * samples
        if count.pop(cell, 0) != wanted:
            raise InputError(
                f"Shard {shard} does not hold the {wanted} records of {cell}. Start its command "
                "again."
            )
    if count:
        raise InputError(f"Shard {shard} holds records of {next(iter(count))}, which it has not.")
    for record in records:
        name = f"{record.cell}: problem {record.problem}, sample {record.sample}"
        own = fingerprints.seed_of(
            settings["sampling"]["seed"], record.data, record.problem, record.sample
        )
        if record.seed != own:
            raise InputError(f"Shard {shard}: {name} has the seed {record.seed} instead of {own}.")
    return records


def _write(target: RunFolder, run: Mapping[str, Any], records: Sequence[Record]) -> None:
    """Write what was joined, unless it is there twice, or something else would be lost."""
    twice = [k for k, n in Counter(map(_key, records)).items() if n > 1]
    if twice:
        raise InputError(f"{twice[0][0]}: problem {twice[0][1]} is in two shards, or twice in one.")
    target.check(run["settings"])
    with target.locked():
        file = RecordFile(target.path / target.records) if target.read() is not None else None
        if file is not None:
            file.close()
            _check_lost(target, file, records)
        target.write(run)
        file = RecordFile(target.path / target.records)
        file.keep(list(records))
        file.close()


def _key(record: Record) -> tuple[Cell, str, int]:
    return record.cell, record.problem, record.sample


def _natural(problem: str) -> tuple[int, str]:
    return (int(problem) if problem.isdecimal() else 0, problem)
