"""The sweep: policies x budgets x data sets x samples, on one model."""

import importlib.metadata
import platform
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import attrs
import torch
from tqdm.auto import tqdm

from skipkv import __version__
from skipkv._calls import is_out_of_memory
from skipkv._progress import progress_bar
from skipkv._runs import differs, require_extra, stamp, writing
from skipkv._types import Thought
from skipkv._validators import is_a
from skipkv.errors import ConfigError, InputError
from skipkv.evaluation import fingerprints
from skipkv.evaluation.answers import final_answer
from skipkv.evaluation.candidates import Candidate, full, parse_candidates
from skipkv.evaluation.cells import FULL, BudgetPoint, Cell
from skipkv.evaluation.datasets import DataSet
from skipkv.evaluation.grading import LONGEST, grade, require_grader
from skipkv.evaluation.prompts import Prompts, encode
from skipkv.evaluation.records import Record, RecordFile, read_records
from skipkv.evaluation.shards import Shard, mean_trace
from skipkv.evaluation.summary import Summary, folder_at
from skipkv.evaluation.thoughts import count_thoughts
from skipkv.policy import Policy
from skipkv.runtime import Completion, Engine, Sampling

OnRecord = Callable[[Record], None]
"""What a caller does with each record."""

# A budget large enough for every preset. It stands for a percentage of a length that is not known
# yet, to check before decoding that the policy can be built.
_AMPLE = 2**16


def _candidates(
    values: "str | Iterable[str | Candidate] | Mapping[str, Any]",
) -> tuple[Candidate, ...]:
    if isinstance(values, Mapping):
        return tuple(Candidate(label=name, source=source) for name, source in values.items())
    found: list[Candidate] = []
    for value in [values] if isinstance(values, str) else values:
        found += parse_candidates([value]) if isinstance(value, str) else [value]
    return tuple(found)


def _points(values: "str | int | Iterable[Any]") -> tuple[BudgetPoint, ...]:
    listed = [values] if isinstance(values, str | int) else list(values)
    pieces = [p for v in listed for p in (v.split(",") if isinstance(v, str) else [v])]
    return tuple(BudgetPoint.parse(p) for p in pieces if not isinstance(p, str) or p.strip())


def _data(values: "DataSet | Iterable[DataSet]") -> tuple[DataSet, ...]:
    return (values,) if isinstance(values, DataSet) else tuple(values)


@attrs.frozen(kw_only=True)
class Sweep:
    """The settings of a sweep: every policy at every budget on every data set.

    The full cache always comes first, once per data set. It is the baseline, and budgets in percent
    refer to the length of its traces. Building a sweep checks all that can be checked without the
    model, such as each policy at each budget.

    Args:
        data: the data sets.
        policies: presets by name, or `package.module:object`, each perhaps with options
            ("skipkv:threshold=0.9"), comma-separated or in a list; or a mapping from your own
            labels to functions of a budget (or to finished policies); or `Candidate`s. A name
            means the published settings; `Candidate.parse(name, settings=model_settings(model))`
            takes the model's.
        budgets: tokens (96) or percentages of the full cache's mean trace ("25%").
        sampling: greedy by default; `n` is the number of samples per problem, `seed` the sweep's.
        interval: decode steps between two events; by default the data set's.
        max_new_tokens: the most tokens decoded per sample; by default the data set's.

    Raises:
        ConfigError: a setting cannot work; it is raised before any decoding.

    Example:
        >>> from skipkv import presets
        >>> from skipkv.evaluation import DataSet, Problem
        >>> sums = DataSet(name="sums", problems=[Problem(id="0", question="2+3?", answer="5")])
        >>> sweep = Sweep(data=sums, policies={"mine": presets.rkv}, budgets=[96, "25%"])
        >>> [str(cell) for cell in sweep.cells({"sums": 400.0})]
        ['sums: full', 'sums: mine at 96', 'sums: mine at 25% (100 tokens)']
    """

    data: tuple[DataSet, ...] = attrs.field(converter=_data)
    policies: tuple[Candidate, ...] = attrs.field(converter=_candidates)
    budgets: tuple[BudgetPoint, ...] = attrs.field(converter=_points)
    sampling: Sampling = attrs.field(factory=Sampling, validator=is_a(Sampling))
    interval: int | None = attrs.field(default=None, validator=is_a(int, least=1, optional=True))
    max_new_tokens: int | None = attrs.field(
        default=None, validator=is_a(int, least=1, optional=True)
    )

    def __attrs_post_init__(self) -> None:
        _distinct("data set", [data.name for data in self.data])
        _distinct_files([data.name for data in self.data])
        _distinct("policy", [candidate.label for candidate in self.policies])
        _distinct("budget", [str(point) for point in self.budgets])
        if not self.data:
            raise ConfigError("Sweep(data=[]) must hold a data set.")
        needy = [c.label for c in self._rivals if c.takes_budget]
        if needy and not self.budgets:
            raise ConfigError(f"Sweep(budgets=[]) must hold a budget for {', '.join(needy)}.")
        for data in self.data:
            _check_answers(data)
            for candidate in self._rivals:
                for point in self._points_of(candidate):
                    tokens = None if point is None else (point.tokens or _AMPLE)
                    candidate.policy(budget=tokens, interval=self._interval(data))

    @property
    def samples(self) -> int:
        """The number of all samples."""
        per_problem = self.cell_count // len(self.data)
        return per_problem * self.sampling.n * sum(len(data.problems) for data in self.data)

    @property
    def cell_count(self) -> int:
        """The number of all cells, those with budgets in percent included."""
        return len(self.data) * (1 + sum(len(self._points_of(c)) for c in self._rivals))

    def cells(self, mean_traces: Mapping[str, float | int]) -> list[Cell]:
        """All cells, in the order in which they are decoded.

        Args:
            mean_traces: data set -> mean length of the full cache's traces, prompt included. A data
                set that is missing has only its baseline and the budgets in tokens.
        """
        cells = [Cell(data=data.name, policy=FULL) for data in self.data]
        for data in self.data:
            length = mean_traces.get(data.name)
            for candidate in self._rivals:
                for point in self._points_of(candidate):
                    if point is None:
                        cells.append(Cell(data=data.name, policy=candidate.label))
                    elif point.tokens is not None or length is not None:
                        tokens = point.tokens_of(length or 0)
                        cells.append(
                            Cell(
                                data=data.name,
                                policy=candidate.label,
                                asked=str(point),
                                budget=tokens,
                            )
                        )
        return cells

    def run(
        self,
        model: Any,
        tokenizer: Any,
        folder: str | Path,
        *,
        batch_size: int | None = None,
        texts: bool = True,
        progress: bool | None = None,
        model_name: str | None = None,
        plot_format: str = "png",
        retry_failed: bool = False,
        same_policies: bool = False,
        on_record: OnRecord | None = None,
    ) -> Summary:
        """Decode the samples that the folder lacks, and sum up all it holds.

        Every sample is written when it is done. A run that was interrupted or killed resumes when
        it is started again. A run with more policies, budgets or data sets adds to the folder.

        If memory runs out, the rest of a cell is decoded in smaller batches. A sample fails if a
        part of the policy fails on it, or if its prompt cannot be decoded (for example, because it
        is too long for the model). Its record has the error, and the other samples go on.

        Args:
            model: a causal language model, as for `Engine`.
            tokenizer: its tokenizer.
            folder: folder of `run.json`, `records.jsonl`, the summary and the plots.
            batch_size: sequences decoded together; by default the data set's. It changes the speed,
                not the answers.
            texts: keep the decoded texts in the records.
            progress: whether to show a bar on stderr. By default a bar on a terminal, and elsewhere
                a line every 30 seconds.
            model_name: name of the model in the summary.
            plot_format: "png" or "svg".
            retry_failed: drop the records of failed samples and decode these again.
            same_policies: go on where a policy is described otherwise than that of the folder's
                samples, as by another version of skipkv: you say that both do the same. The summary
                says so.
            on_record: called with each new record after it was written, in the order in which the
                samples are done. An error that it raises ends the run; a later one resumes it.

        Raises:
            InputError: the folder holds a run with other settings or cannot be written, no prompt
                of a data set can be decoded, or memory runs out with a single sequence.
            ConfigError: a budget in percent is too small for a policy.
            MissingExtraError: the extra `eval` is not installed.
        """
        check_extras()
        self.check_folder(folder)
        run = _Run(
            self,
            model,
            tokenizer,
            folder,
            batch_size=batch_size,
            texts=texts,
            same_policies=same_policies,
            on_record=on_record,
        )
        with folder_at(folder).locked():
            name = model_name or str(getattr(model.config, "name_or_path", "")) or "model"
            run.open(name, retry_failed=retry_failed)
            try:
                run.decode(progress)
            finally:
                run.file.close()
        return summarize(folder, plot_format=plot_format)

    def run_shard(
        self,
        model: Any,
        tokenizer: Any,
        folder: str | Path,
        *,
        shard: Shard,
        batch_size: int | None = None,
        texts: bool = True,
        progress: bool | None = None,
        model_name: str | None = None,
        retry_failed: bool = False,
        same_policies: bool = False,
        on_record: OnRecord | None = None,
    ) -> bool:
        """Decode one shard's samples, into a folder of its own inside the sweep's folder.

        Budgets in percent are those of all traces of the full cache. As long as not all shards have
        decoded it, the samples under such budgets are left out: run the shard again then. `merge`
        joins the shards.

        Args:
            model: as for `run`.
            tokenizer: as for `run`.
            folder: folder of the sweep.
            shard: which part of the problems.
            batch_size: as for `run`.
            texts: as for `run`.
            progress: as for `run`.
            model_name: as for `run`.
            retry_failed: as for `run`.
            same_policies: as for `run`.
            on_record: as for `run`.

        Returns:
            Whether the shard is done.

        Raises:
            InputError: as for `run`; or another shard has other settings, or there are more shards
                than problems.
            ConfigError: as for `run`.
            MissingExtraError: as for `run`.
        """
        check_extras()
        self.check_shard(shard)
        run = _Run(
            self,
            model,
            tokenizer,
            folder,
            batch_size=batch_size,
            texts=texts,
            shard=shard,
            same_policies=same_policies,
            on_record=on_record,
        )
        with folder_at(shard.folder(folder)).locked():
            name = model_name or str(getattr(model.config, "name_or_path", "")) or "model"
            run.open(name, retry_failed=retry_failed)
            try:
                return run.decode(progress)
            finally:
                run.file.close()

    def check_shard(self, shard: Shard) -> None:
        """Raise unless every data set has a problem for this shard.

        Args:
            shard: the shard.

        Raises:
            InputError: a data set has fewer problems than there are shards.
        """
        for data in self.data:
            if len(data.problems) < shard.of:
                raise InputError(
                    f"Shard {shard}: {data.name} has only {len(data.problems)} problems. Take as "
                    "many shards at most."
                )

    def check_folder(self, folder: str | Path) -> None:
        """Raise unless this sweep can use a folder; needs no model.

        Args:
            folder: as for `run`.

        Raises:
            InputError: the folder holds a run with other settings, or cannot be written.
        """
        there = folder_at(folder)
        there.check(self._settings())
        known = (there.read() or {"settings": {}})["settings"].get("data", {})
        _distinct_files([*known, *(data.name for data in self.data)])

    def _settings(self) -> dict[str, Any]:
        """The settings that decide what is decoded, without the model."""
        sampling = attrs.asdict(self.sampling)
        return {
            "sampling": {"samples": sampling.pop("n"), **sampling},
            "data": {
                data.name: {
                    "problems": len(data.problems),
                    "content": data.fingerprint,
                    "instruction": data.defaults.instruction,
                    "interval": self._interval(data),
                    "max_new_tokens": self._max_new_tokens(data),
                }
                for data in self.data
            },
        }

    @property
    def _rivals(self) -> list[Candidate]:
        """The policies to compare with the full cache."""
        for candidate in self.policies:
            if candidate.label == FULL and candidate.source != full().source:
                raise ConfigError(
                    f"The label {FULL!r} is reserved for the full cache, the baseline of every "
                    "sweep. Give your policy another label."
                )
        return [c for c in self.policies if c.label != FULL]

    def _points_of(self, candidate: Candidate) -> Sequence[BudgetPoint | None]:
        return self.budgets if candidate.takes_budget else [None]

    def _interval(self, data: DataSet) -> int:
        return self.interval or data.defaults.interval

    def _max_new_tokens(self, data: DataSet) -> int:
        return self.max_new_tokens or data.defaults.max_new_tokens


def summarize(folder: str | Path, *, plot_format: str = "png") -> Summary:
    """Sum up the records of a folder, complete or not, and write tables and plots beside them.

    Args:
        folder: folder of a sweep.
        plot_format: "png" or "svg".

    Raises:
        InputError: the folder holds no sweep, or cannot be written.
    """
    from skipkv.evaluation.plots import plot

    folder = Path(folder)
    check_extras()
    summary = Summary.of_folder(folder)
    for name, text in (("summary.md", summary.markdown()), ("summary.csv", summary.csv())):
        with writing(folder / name):
            (folder / name).write_text(text, encoding="utf-8")
    plot(summary, folder, plot_format=plot_format)
    return summary


def check_extras() -> None:
    """Raise `MissingExtraError` unless the extra `eval` is installed."""
    require_grader()
    require_extra("eval", "scipy", "matplotlib")


def _distinct(what: str, names: Sequence[str]) -> None:
    for name in names:
        if names.count(name) > 1:
            raise ConfigError(f"The {what} {name} is named twice. Name it once.")


def _distinct_files(names: Iterable[str]) -> None:
    """Raise if two data sets would write to the same file on systems that ignore case."""
    seen: dict[str, str] = {}
    for name in names:
        other = seen.setdefault(name.casefold(), name)
        if other != name:
            raise ConfigError(
                f"The data sets {other} and {name} differ only in upper and lower case. Their "
                "plots may have the same file. Rename one: --data NAME=FILE."
            )


def _check_answers(data: DataSet) -> None:
    """Raise for a known answer that no answer could equal, such as a whole solution."""
    for problem in data.problems:
        if len(problem.answer) > LONGEST:
            raise ConfigError(
                f"Problem {problem.id} of {data.name} has an answer of {len(problem.answer)} "
                f"characters, and none of more than {LONGEST} is graded. Give the final answer "
                "alone: in a file it may stand after #### or in \\boxed{} at the end, or in a "
                "field that --answer-field names."
            )


class _Run:
    """A sweep in progress: model, prompts and records."""

    def __init__(
        self,
        sweep: Sweep,
        model: Any,
        tokenizer: Any,
        folder: str | Path,
        *,
        batch_size: int | None,
        texts: bool,
        shard: Shard | None = None,
        same_policies: bool = False,
        on_record: OnRecord | None = None,
    ) -> None:
        self._sweep = sweep
        self._model = model
        self._tokenizer = tokenizer
        self._output = Path(folder)
        self._shard = shard
        self._folder = folder_at(folder if shard is None else shard.folder(folder))
        self._batch_size = batch_size
        self._texts = texts
        self._same_policies = same_policies
        self._on_record = on_record
        self._data = {data.name: data for data in sweep.data}
        self._prompts: dict[str, Prompts] = {d.name: encode(d, tokenizer) for d in sweep.data}
        self._candidates = {c.label: c for c in (full(), *sweep._rivals)}
        for cell in sweep.cells({}):
            self._check(cell)  # raises the errors that decoding would raise
        # after the checks, which refuse unsupported models

    def open(self, model_name: str, *, retry_failed: bool) -> None:
        """Read the folder, and check that this run can resume what it holds."""
        settings = self._sweep._settings()
        ends = fingerprints.ends_of(self._model, self._tokenizer)
        settings["model"] = {**fingerprints.of_model(self._model), "eos": ends}
        for name, prompts in self._prompts.items():
            settings["data"][name]["prompts"] = fingerprints.of_prompts(prompts.ids)
        self._folder.check(settings)
        self._run = self._folder.read() or {
            "settings": {"data": {}},
            "model": model_name,
            "cells": [],
            "sessions": [],
        }
        known_data = self._run["settings"]["data"]
        self._run["settings"] = {**settings, "data": {**known_data, **settings["data"]}}
        self._run["sessions"].append(_session(self._model, self._batch_size))
        if self._shard is not None:
            self._run["shard"] = {**attrs.asdict(self._shard), "complete": False, "waits": False}
        records, _ = read_records(self._folder.path / self._folder.records)
        dropped = {id(r) for r in records if retry_failed and r.failed and self._asked_for(r)}
        kept = [r for r in records if id(r) not in dropped]
        self._done = {(r.cell, r.problem, r.sample) for r in kept}
        self._note(self._sweep.cells({}))  # raises before records are dropped
        self.file = RecordFile(self._folder.path / self._folder.records)
        if dropped:
            self.file.keep(kept)

    def decode(self, progress: bool | None) -> bool:
        """Decode the missing samples: the baselines first, then the other cells.

        Returns:
            Whether all are decoded; a shard may have to wait for the baselines of others.
        """
        baselines = [Cell(data=data.name, policy=FULL) for data in self._sweep.data]
        with progress_bar(progress, total=self._total(), unit="sample", smoothing=0) as bar:
            # finished samples count at once, so that the bar's rate is that of this run
            bar.initial = bar.n = sum(len(self._finished(cell)) for cell in baselines)
            bar.refresh()
            self._decode(baselines, bar)
            cells = [c for c in self._sweep.cells(self._mean_traces()) if not c.is_full]
            for cell in cells:
                self._check(cell)
            self._note(cells)  # after the checks: the summary asks for the samples of what is noted
            held = sum(len(self._finished(cell)) for cell in cells)
            bar.initial += held
            bar.update(held)
            bar.refresh()
            self._decode(cells, bar)
        complete = len(cells) + len(baselines) == self._sweep.cell_count
        if self._shard is not None:
            self._run["shard"] |= {"complete": complete, "waits": not complete}
            self._folder.write(self._run)
        return complete

    def _total(self) -> int:
        """The number of samples that this process is to decode."""
        per_problem = self._sweep.samples // sum(len(data.problems) for data in self._sweep.data)
        return per_problem * sum(len(self._places(data)) for data in self._sweep.data)

    def _places(self, data: DataSet) -> range:
        """The places of the problems that this process decodes."""
        count = len(data.problems)
        return range(count) if self._shard is None else self._shard.places(count)

    def _decode(self, cells: Sequence[Cell], bar: "tqdm[Any]") -> None:
        for cell in cells:
            width = self._width(cell)
            while self._runs_out_of_memory(cell, width, bar):
                width = _narrower(cell, width)

    def _runs_out_of_memory(self, cell: Cell, width: int, bar: "tqdm[Any]") -> bool:
        """Decode the missing samples of a cell; returns whether memory ran out."""
        jobs = self._jobs(cell, done=self._finished(cell))
        bar.set_description(str(cell))
        good, refused = self._split(cell, jobs)
        for job, error in refused.items():
            self._add(self._refused(cell, job, error), bar)
        if not good:
            return False
        try:
            started = self._start(self._engine(cell, width), cell, good)
            for completion, wall in _timed(started):
                self._add(self._record(cell, good[completion.index], completion, wall, width), bar)
        except Exception as error:  # the memory that its frames hold is freed after this block
            if is_out_of_memory(error):
                return True
            raise
        return False

    def _add(self, record: Record, bar: "tqdm[Any]") -> None:
        self.file.add(record)
        self._done.add((record.cell, record.problem, record.sample))
        if record.error is not None:
            tqdm.write(f"{record.cell}: problem {record.problem}: {record.error}", file=sys.stderr)
        bar.update()
        if self._on_record is not None:
            self._on_record(record)

    def _asked_for(self, record: Record) -> bool:
        """Whether a record belongs to a cell and a problem of this sweep."""
        return (
            record.policy in self._candidates
            and record.asked in {None, *map(str, self._sweep.budgets)}
            and record.data in self._data
            and record.problem in {p.id for p in self._data[record.data].problems}
        )

    def _check(self, cell: Cell) -> None:
        """Raise the errors that decoding would raise, or if no prompt can be decoded."""
        good, refused = self._split(cell, self._jobs(cell, done=set()))
        if not good:
            error = next(iter(refused.values()))
            raise InputError(f"{cell}: {error}") from error

    def _split(
        self, cell: Cell, jobs: Sequence[tuple[int, int]]
    ) -> tuple[list[tuple[int, int]], dict[tuple[int, int], InputError]]:
        """Split jobs into those that can be decoded and those whose prompts the engine refuses."""
        engine = self._engine(cell, self._width(cell))
        try:
            self._start(engine, cell, jobs)
            return list(jobs), {}
        except InputError:
            pass
        good, refused = [], {}
        for job in jobs:
            try:
                self._start(engine, cell, [job])
                good.append(job)
            except InputError as error:
                refused[job] = error
        return good, refused

    def _jobs(self, cell: Cell, *, done: set[tuple[str, int]]) -> list[tuple[int, int]]:
        """The missing samples: (place of the problem in the data set, number of the sample)."""
        return [
            (place, sample)
            for place in self._places(self._data[cell.data])
            for sample in range(self._sweep.sampling.n)
            if (self._data[cell.data].problems[place].id, sample) not in done
        ]

    def _finished(self, cell: Cell) -> set[tuple[str, int]]:
        """The samples of a cell that the folder holds, as far as this sweep asks for them."""
        wanted = {problem.id for problem in self._data[cell.data].problems}
        return {(p, s) for c, p, s in self._done if c == cell and p in wanted}

    def _engine(self, cell: Cell, width: int) -> Any:
        return Engine(self._model, self._tokenizer, self._policy(cell), batch_size=width)

    def _start(
        self, engine: Any, cell: Cell, jobs: Sequence[tuple[int, int]]
    ) -> Iterator[Completion]:
        """Start an engine: it checks all input now, and decodes as its results are read."""
        data, prompts = self._data[cell.data], self._prompts[cell.data]
        return iter(
            engine.generate(
                [prompts.ids[place] for place, _ in jobs],
                max_new_tokens=self._sweep._max_new_tokens(data),
                sampling=attrs.evolve(self._sweep.sampling, n=1),
                seeds=[self._seed(cell, job) for job in jobs],
                ordered=False,
                progress=False,
            )
        )

    def _policy(self, cell: Cell) -> Policy:
        return self._candidates[cell.policy].policy(
            budget=cell.budget, interval=self._sweep._interval(self._data[cell.data])
        )

    def _width(self, cell: Cell) -> int:
        return self._batch_size or self._data[cell.data].defaults.batch_size

    def _seed(self, cell: Cell, job: tuple[int, int]) -> int:
        problem = self._data[cell.data].problems[job[0]]
        return fingerprints.seed_of(self._sweep.sampling.seed, cell.data, problem.id, job[1])

    def _record(
        self, cell: Cell, job: tuple[int, int], completion: Completion, wall: float, width: int
    ) -> Record:
        text = str(self._tokenizer.decode(list(completion.tokens), skip_special_tokens=False))
        prompts = self._prompts[cell.data]
        answer = final_answer(text, opened=prompts.opened, marks=prompts.marks)
        thoughts = count_thoughts(text, prompts.marks)
        stats = completion.stats
        return Record(
            **self._named(cell, job),
            answer=answer,
            correct=grade(answer, self._data[cell.data].problems[job[0]].answer),
            prompt_tokens=completion.prompt_tokens,
            new_tokens=stats.new_tokens,
            stop_reason=completion.stop_reason,
            error=None if completion.error is None else str(completion.error),
            execution=thoughts[Thought.EXECUTION],
            reflection=thoughts[Thought.REFLECTION],
            transition=thoughts[Thought.TRANSITION],
            events=stats.events,
            evicted=stats.evicted,
            mean_entries=round(stats.mean_entries, 3),
            peak_entries=stats.peak_entries,
            peak_kv_bytes=stats.peak_kv_bytes,
            seconds=round(stats.seconds, 4),
            wall_seconds=round(wall, 4),
            batch_size=width,
            text=text if self._texts else None,
        )

    def _refused(self, cell: Cell, job: tuple[int, int], error: InputError) -> Record:
        """The record of a sample whose prompt cannot be decoded."""
        counts = ("new_tokens", "execution", "reflection", "transition", "events", "evicted")
        costs = ("mean_entries", "peak_entries", "peak_kv_bytes", "seconds", "wall_seconds")
        nothing: dict[str, Any] = dict.fromkeys((*counts, *costs), 0)
        return Record(
            **self._named(cell, job),
            **nothing,
            answer=None,
            correct=False,
            prompt_tokens=len(self._prompts[cell.data].ids[job[0]]),
            stop_reason="error",
            error=str(error),
            batch_size=self._width(cell),
        )

    def _named(self, cell: Cell, job: tuple[int, int]) -> dict[str, Any]:
        """The fields that identify the sample of a record."""
        problem = self._data[cell.data].problems[job[0]]
        return {
            **attrs.asdict(cell),
            "problem": problem.id,
            "sample": job[1],
            "seed": self._seed(cell, job),
            "gold": problem.answer,
        }

    def _mean_traces(self) -> dict[str, float]:
        """Mean length of the full cache's traces, prompt included, per data set.

        It is stored when first known, so that failed samples that are decoded later do not change
        the budgets.
        """
        baselines = [r for r in self.file if r.cell.is_full and r.data in self._data]
        waits = set()
        if self._shard is not None:
            baselines += self._shard.baselines(self._output, self._run["settings"])
            counts = Counter(r.data for r in baselines)
            wanted = {d.name: len(d.problems) * self._sweep.sampling.n for d in self._sweep.data}
            waits = {name for name, count in wanted.items() if counts[name] < count}
        known = self._run.setdefault("mean_traces", {})
        if self._shard is not None:  # all shards have the budgets of the first that knew them
            self._run["mean_traces"] = known = {**self._shard.mean_traces(self._output), **known}
        for name in [name for name in self._data if name not in waits]:
            length = mean_trace(baselines, name)
            if name not in known and length is not None:
                known[name] = length
            if name not in known and any(point.tokens is None for point in self._sweep.budgets):
                raise InputError(
                    f"{name}: every sample of the full cache failed. A budget in percent needs the "
                    f"length of its traces. {self._folder.records} has the errors."
                )
        return {name: known[name] for name in self._data if name in known}

    def _note(self, cells: Sequence[Cell]) -> None:
        """Store the policies of the cells; raise if they differ from those of the samples."""
        known = {Cell.of(entry): entry for entry in self._run["cells"]}
        held = Counter(cell for cell, _, _ in self._done)
        for cell in cells:
            now = stamp(self._policy(cell))
            entry = {**attrs.asdict(cell), **now}
            if held[cell] and cell in known:
                earlier = list(known[cell].get("earlier", ()))
                changed = differs(known[cell], now)
                if changed is not None:
                    self._check_vouched(cell, changed)
                    earlier.append({"changed": changed, "samples": held[cell]})
                entry |= {"earlier": earlier} if earlier else {}
            known[cell] = entry
        self._run["cells"] = list(known.values())
        self._run["samples"] = self._sweep.sampling.n
        self._folder.write(self._run)

    def _check_vouched(self, cell: Cell, changed: str) -> None:
        """Raise unless the user says that a policy described otherwise does the same."""
        if self._same_policies:
            return
        *before, now = (session["versions"]["skipkv"] for session in self._run["sessions"])
        others = ", ".join(v for v in dict.fromkeys(before) if v != now)
        raise InputError(
            f"{self._folder.path} holds {cell} measured with another policy: {changed}."
            + (f" The folder is of skipkv {others}, this is {now}." if others else "")
            + " Where both do the same, --same-policies (in Python same_policies=True) goes on, "
            "and the summary says so. Otherwise choose another folder with --output, or another "
            "name for the policy."
        )


def _narrower(cell: Cell, width: int) -> int:
    """Half as many sequences, after memory ran out."""
    if width == 1:
        raise InputError(
            f"{cell}: out of memory with a single sequence. Free memory on the device or take a "
            "larger one. Finished samples are kept."
        )
    tqdm.write(
        f"{cell}: out of memory with {width} sequences; going on with {width // 2}.",
        file=sys.stderr,
    )
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    return width // 2


def _timed(
    completions: Iterator[Completion], clock: Callable[[], float] = time.perf_counter
) -> Iterator[tuple[Completion, float]]:
    """Each completion with the seconds it took, without the time the caller spends between them."""
    while True:
        started = clock()
        completion = next(completions, None)
        if completion is None:
            return
        yield completion, clock() - started


def _session(model: Any, batch_size: int | None) -> dict[str, Any]:
    """The software and hardware of a run or a part of it; recorded, but not compared."""
    versions = {
        name: importlib.metadata.version(name) for name in ("torch", "transformers", "math-verify")
    }
    return {
        "started": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "versions": {
            "skipkv": __version__,
            "python": platform.python_version(),
            **versions,
        },
        "device": str(model.device),
        "batch_size": batch_size,
    }
