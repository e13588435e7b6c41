"""The sweep: policies x budgets x data sets x samples, on one model."""

import importlib.metadata
import platform
import re
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import attrs
import torch
from tqdm.auto import tqdm

from skipkv import __version__
from skipkv._progress import progress_bar
from skipkv._types import Thought
from skipkv._validators import is_a
from skipkv.errors import ConfigError, InputError
from skipkv.evaluation import fingerprints
from skipkv.evaluation.answers import final_answer
from skipkv.evaluation.candidates import Candidate, full, parse_candidates
from skipkv.evaluation.cells import FULL, BudgetPoint, Cell
from skipkv.evaluation.datasets import DataSet
from skipkv.evaluation.extras import require_extra
from skipkv.evaluation.folder import RECORDS, check_same, locked, read_run, write_run
from skipkv.evaluation.grading import grade, require_grader
from skipkv.evaluation.prompts import Prompts, encode
from skipkv.evaluation.records import Record, RecordFile
from skipkv.evaluation.summary import Summary
from skipkv.evaluation.thoughts import count_thoughts
from skipkv.policy import Policy
from skipkv.runtime import Completion, Engine, Sampling

# A budget above which no preset complains: shows before any decoding that a policy can be built at
# a percentage of a length not yet known.
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
    """What is to be measured: every policy at every budget on every data set.

    The full cache always comes first, once per data set: it is the baseline, and its traces say
    what a budget in percent is. Building a sweep checks all that can be checked without the model,
    each policy at each budget among it.

    Args:
        data: the data sets.
        policies: presets by name, or `package.module:object`, each with options where wanted
            ("skipkv:threshold=0.9"), comma-separated or in a list; or a mapping from labels of
            your own to functions of a budget (or to finished policies); or `Candidate`s.
        budgets: tokens (96) or percentages of the full cache's mean trace ("25%").
        sampling: greedy by default; its `n` is samples per problem, its `seed` the sweep's.
        interval: decode steps between two events; by default the data set's own.
        max_new_tokens: tokens decoded per sample at most; by default the data set's own.

    Raises:
        ConfigError: a part of it cannot work; nothing was decoded then.

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
        _distinct("policy", [candidate.label for candidate in self.policies])
        _distinct("budget", [str(point) for point in self.budgets])
        if not self.data:
            raise ConfigError("Sweep(data=[]) must hold a data set.")
        needy = [c.label for c in self._rivals if c.takes_budget]
        if needy and not self.budgets:
            raise ConfigError(f"Sweep(budgets=[]) must hold a budget for {', '.join(needy)}.")
        for data in self.data:
            for candidate in self._rivals:
                for point in self._points_of(candidate):
                    tokens = None if point is None else (point.tokens or _AMPLE)
                    candidate.policy(budget=tokens, interval=self._interval(data))

    @property
    def samples(self) -> int:
        """How many samples there will be in all."""
        per_problem = 1 + sum(len(self._points_of(c)) for c in self._rivals)
        return per_problem * self.sampling.n * sum(len(data.problems) for data in self.data)

    def cells(self, mean_traces: Mapping[str, float | int]) -> list[Cell]:
        """All cells, in the order in which they are decoded.

        Args:
            mean_traces: data set -> mean length of the full cache's traces, prompt included; those
                it lacks have their baseline and the budgets in tokens alone.
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
    ) -> Summary:
        """Decode what the folder does not hold yet, and sum up all it holds.

        Every sample is written when it is done. A run that was interrupted, or killed, goes on
        where it stood when it is started again; a run with more policies, budgets or data sets adds
        to what is there.

        Args:
            model: a causal language model, as for `Engine`.
            tokenizer: its tokenizer.
            folder: where `run.json`, `records.jsonl`, the summary and the plots go.
            batch_size: sequences decoded side by side; by default the data set's own. It changes
                speed and no answer.
            texts: keep what was decoded in the records.
            progress: show a bar on stderr, or nothing. Default: a bar on a terminal, a line every
                30 seconds elsewhere.
            model_name: what the summary calls the model.
            plot_format: "png" or "svg".

        Raises:
            InputError: the folder holds a run with other settings, a prompt cannot be decoded, or
                the accelerator's memory is too small.
            ConfigError: a budget in percent is too small for a policy.
            MissingExtraError: the extra `eval` is not installed.
        """
        folder = Path(folder)
        check_extras()
        self.check_folder(folder)
        run = _Run(self, model, tokenizer, folder, batch_size=batch_size, texts=texts)
        folder.mkdir(parents=True, exist_ok=True)
        with locked(folder):
            run.open(model_name or str(getattr(model.config, "name_or_path", "")) or "model")
            try:
                run.decode(progress)
            finally:
                run.file.close()
        return summarize(folder, plot_format=plot_format)

    def check_folder(self, folder: str | Path) -> None:
        """Raise `InputError` if the folder holds a run with other settings; needs no model."""
        then = read_run(Path(folder))
        if then is not None:
            check_same(Path(folder), then["settings"], self._settings())

    def _settings(self) -> dict[str, Any]:
        """All that decides what is decoded, but for the model."""
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
        """The policies that stand beside the full cache."""
        for candidate in self.policies:
            if candidate.label == FULL and candidate.source != full().source:
                raise ConfigError(
                    f"The label {FULL!r} is the full cache's, which every sweep runs as its "
                    "baseline. Call your policy something else."
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
        folder: where a sweep ran.
        plot_format: "png" or "svg".

    Raises:
        InputError: no sweep ran there.
    """
    from skipkv.evaluation.plots import plot

    folder = Path(folder)
    check_extras()
    summary = Summary.of_folder(folder)
    (folder / "summary.md").write_text(summary.markdown())
    (folder / "summary.csv").write_text(summary.csv())
    plot(summary, folder, plot_format=plot_format)
    return summary


def check_extras() -> None:
    """Raise `MissingExtraError` unless all of the extra `eval` is there."""
    require_grader()
    require_extra("eval", "scipy", "matplotlib")


def _distinct(what: str, names: Sequence[str]) -> None:
    for name in names:
        if names.count(name) > 1:
            raise ConfigError(f"The {what} {name} is there twice. Name it once.")


class _Run:
    """A sweep under way: model, prompts, records."""

    def __init__(
        self,
        sweep: Sweep,
        model: Any,
        tokenizer: Any,
        folder: Path,
        *,
        batch_size: int | None,
        texts: bool,
    ) -> None:
        self._sweep = sweep
        self._model = model
        self._tokenizer = tokenizer
        self._folder = folder
        self._batch_size = batch_size
        self._texts = texts
        self._data = {data.name: data for data in sweep.data}
        self._prompts: dict[str, Prompts] = {d.name: encode(d, tokenizer) for d in sweep.data}
        self._candidates = {c.label: c for c in (full(), *sweep._rivals)}
        for cell in sweep.cells({}):
            self._start(cell, self._jobs(cell, done=set()))  # raises what decoding would
        # of a model that was found to be supported

    def open(self, model_name: str) -> None:
        """Read what the folder holds and see that this run goes on with it."""
        settings = self._sweep._settings()
        settings["model"] = fingerprints.of_model(self._model)
        for name, prompts in self._prompts.items():
            settings["data"][name]["prompts"] = fingerprints.of_prompts(prompts.ids)
        self._run = read_run(self._folder) or {
            "settings": {"data": {}},
            "model": model_name,
            "cells": [],
            "sessions": [],
        }
        check_same(self._folder, self._run["settings"], settings)
        known_data = self._run["settings"]["data"]
        self._run["settings"] = {**settings, "data": {**known_data, **settings["data"]}}
        self._run["sessions"].append(_session(self._model, self._batch_size))
        self._note(self._sweep.cells({}))
        self.file = RecordFile(self._folder / RECORDS)
        self._done = {(r.cell, r.problem, r.sample) for r in self.file}

    def decode(self, progress: bool | None) -> None:
        """Decode all that is not done yet: the baselines, then everything else."""
        baselines = [Cell(data=data.name, policy=FULL) for data in self._sweep.data]
        with progress_bar(progress, total=self._sweep.samples, unit="sample", smoothing=0) as bar:
            # counted in one go, so that the bar's rate and ETA are those of what is decoded now
            bar.initial = bar.n = sum(len(self._finished(cell)) for cell in baselines)
            bar.refresh()
            self._decode(baselines, bar)
            cells = [c for c in self._sweep.cells(self._mean_traces()) if not c.is_full]
            self._note(cells)
            for cell in cells:
                self._start(cell, self._jobs(cell, done=set()))
            held = sum(len(self._finished(cell)) for cell in cells)
            bar.initial += held
            bar.update(held)
            bar.refresh()
            self._decode(cells, bar)

    def _decode(self, cells: Sequence[Cell], bar: "tqdm[Any]") -> None:
        for cell in cells:
            jobs = self._jobs(cell, done=self._finished(cell))
            if not jobs:
                continue
            bar.set_description(str(cell))
            try:
                for completion, wall in _timed(self._start(cell, jobs)):
                    self.file.add(self._record(cell, jobs[completion.index], completion, wall))
                    if completion.error is not None:
                        tqdm.write(f"{cell}: {completion.error}", file=sys.stderr)
                    bar.update()
            except torch.OutOfMemoryError as error:
                raise InputError(
                    f"{cell}: out of memory with {self._width(cell)} sequences side by side. "
                    "Start again with a smaller --batch-size; what is done is kept."
                ) from error

    def _jobs(self, cell: Cell, *, done: set[tuple[str, int]]) -> list[tuple[int, int]]:
        """Problem (its place in the data set) and sample of what is to be decoded."""
        return [
            (place, sample)
            for place, problem in enumerate(self._data[cell.data].problems)
            for sample in range(self._sweep.sampling.n)
            if (problem.id, sample) not in done
        ]

    def _finished(self, cell: Cell) -> set[tuple[str, int]]:
        """Problem and sample of what this sweep asks of a cell and the folder holds."""
        wanted = {problem.id for problem in self._data[cell.data].problems}
        return {(p, s) for c, p, s in self._done if c == cell and p in wanted}

    def _start(self, cell: Cell, jobs: Sequence[tuple[int, int]]) -> Iterator[Completion]:
        """An engine's answer: all input is checked now, all decoding is done as it is read."""
        data, prompts = self._data[cell.data], self._prompts[cell.data]
        try:
            engine = Engine(
                self._model, self._tokenizer, self._policy(cell), batch_size=self._width(cell)
            )
            return engine.generate(
                [prompts.ids[place] for place, _ in jobs],
                max_new_tokens=self._sweep._max_new_tokens(data),
                sampling=attrs.evolve(self._sweep.sampling, n=1),
                seeds=[self._seed(cell, job) for job in jobs],
                ordered=False,
                progress=False,
            )
        except InputError as error:
            raise InputError(f"{cell}: {error}") from error

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
        self, cell: Cell, job: tuple[int, int], completion: Completion, wall: float
    ) -> Record:
        problem = self._data[cell.data].problems[job[0]]
        text = str(self._tokenizer.decode(list(completion.tokens), skip_special_tokens=False))
        answer = final_answer(text, opened=self._prompts[cell.data].opened)
        thoughts = count_thoughts(text)
        stats = completion.stats
        return Record(
            data=cell.data,
            policy=cell.policy,
            asked=cell.asked,
            budget=cell.budget,
            problem=problem.id,
            sample=job[1],
            seed=self._seed(cell, job),
            gold=problem.answer,
            answer=answer,
            correct=grade(answer, problem.answer),
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
            batch_size=self._width(cell),
            text=text if self._texts else None,
        )

    def _mean_traces(self) -> dict[str, float]:
        """Mean length of the full cache's traces, prompt included, per data set."""
        lengths: dict[str, list[int]] = {}
        for record in self.file:
            if record.cell.is_full:
                lengths.setdefault(record.data, []).append(record.prompt_tokens + record.new_tokens)
        return {name: sum(found) / len(found) for name, found in lengths.items()}

    def _note(self, cells: Sequence[Cell]) -> None:
        """Write down what the cells are made of, and that this has not changed."""
        known = {Cell.of(entry): entry for entry in self._run["cells"]}
        for cell in cells:
            entry = {**attrs.asdict(cell), "composition": _written(self._policy(cell))}
            if known.setdefault(cell, entry) != entry:
                raise InputError(
                    f"{self._folder} holds {cell} measured with another policy: it was "
                    f"{known[cell]['composition']} and is {entry['composition']}. Choose another "
                    "folder with --output, or another name for the policy."
                )
        self._run["cells"] = list(known.values())
        self._run["samples"] = self._sweep.sampling.n
        write_run(self._folder, {k: v for k, v in self._run.items() if k != "format"})


def _timed(
    completions: Iterator[Completion], clock: Callable[[], float] = time.perf_counter
) -> Iterator[tuple[Completion, float]]:
    """Each completion with the seconds that passed until it came, those of its reader left out."""
    while True:
        started = clock()
        completion = next(completions, None)
        if completion is None:
            return
        yield completion, clock() - started


def _written(policy: Policy) -> str:
    """The policy's repr, without addresses: those change from process to process."""
    return re.sub(r" at 0x[0-9a-f]+", "", repr(policy))


def _session(model: Any, batch_size: int | None) -> dict[str, Any]:
    """Where and with what a run, or a part of it, was made; compared with nothing."""
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
