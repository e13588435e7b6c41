"""The benchmark: subjects x batch sizes x budgets, in rounds, on one model."""

import importlib.metadata
import platform
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import attrs
import torch
from tqdm.auto import tqdm

from skipkv import __version__
from skipkv._progress import progress_bar
from skipkv._runs import LineFile, RunFolder, described, read_lines, stamp
from skipkv._validators import is_a
from skipkv.benchmark.case import Case, Job
from skipkv.benchmark.isolation import Answer, can_fork, guarded, in_child
from skipkv.benchmark.measurement import Measurement
from skipkv.benchmark.prompts import prompts
from skipkv.benchmark.subjects import PolicySubject, Subject
from skipkv.benchmark.summary import Summary, folder_at
from skipkv.errors import ConfigError
from skipkv.evaluation import fingerprints
from skipkv.models.architecture import text_config
from skipkv.runtime.support.checks import cache_shape

# The number of points of a curve over the generated length, and the fewest tokens between two.
_POINTS, _APART = 128, 16


def _ints(values: Iterable[int]) -> tuple[int, ...]:
    return tuple(values)


def _subjects(values: Iterable[Subject]) -> tuple[Subject, ...]:
    return tuple(values)


@attrs.frozen(kw_only=True)
class Bench:
    """The settings of a benchmark.

    Every subject decodes the same prompts to the same length. Subjects take turns, round by round,
    so that changes in the machine's speed affect all of them. Ratios are taken within a round. On a
    CPU under Linux every run has its own process, forked from the one that holds the model. So all
    runs start with the same memory, and a run that exhausts it ends alone.

    Args:
        subjects: policies and baselines.
        batch_sizes: numbers of sequences decoded together.
        budgets: entries per KV head, for subjects that take a budget.
        interval: steps between two events.
        new_tokens: tokens decoded per sequence; a sequence never ends earlier.
        prompt_tokens: length of the prompts.
        repeats: number of rounds.
        seed: seed of the prompts.
        threads: threads of each run on a CPU.

    Raises:
        ConfigError: a setting cannot work; it is raised before any decoding.
    """

    subjects: tuple[Subject, ...] = attrs.field(converter=_subjects)
    batch_sizes: tuple[int, ...] = attrs.field(converter=_ints)
    budgets: tuple[int, ...] = attrs.field(converter=_ints)
    interval: int = attrs.field(default=128, validator=is_a(int, least=1))
    new_tokens: int = attrs.field(default=2048, validator=is_a(int, least=2))
    prompt_tokens: int = attrs.field(default=128, validator=is_a(int, least=1))
    repeats: int = attrs.field(default=3, validator=is_a(int, least=1))
    seed: int = attrs.field(default=0, validator=is_a(int, least=0))
    threads: int = attrs.field(default=1, validator=is_a(int, least=1))

    def __attrs_post_init__(self) -> None:
        _distinct("subjects", [subject.label for subject in self.subjects])
        for field in ("batch_sizes", "budgets"):
            values = getattr(self, field)
            _distinct(field, [str(value) for value in values])
            if values and min(values) < 1:
                raise ConfigError(f"Bench({field}={list(values)}) must hold numbers from 1 on.")
        if not self.subjects or not self.batch_sizes:
            raise ConfigError("Bench must hold a subject and a batch size.")
        needy = [subject.label for subject in self.subjects if subject.takes_budget]
        if needy and not self.budgets:
            raise ConfigError(f"Bench(budgets=[]) must hold a budget for {', '.join(needy)}.")
        for subject in self.subjects:
            if isinstance(subject, PolicySubject):
                for budget in self._budgets_of(subject):
                    subject.policy(budget=budget, interval=self.interval)

    def cases(self) -> list[Case]:
        """All cases of a round, in its order."""
        return [
            Case(subject=subject.label, batch_size=batch_size, budget=budget)
            for batch_size in self.batch_sizes
            for budget in (None, *self.budgets)
            for subject in self.subjects
            if budget in self._budgets_of(subject)
        ]

    def run(
        self,
        model: Any,
        tokenizer: Any,
        folder: str | Path,
        *,
        model_name: str = "model",
        progress: bool | None = None,
        same_policies: bool = False,
    ) -> Summary:
        """Run the measurements that the folder lacks, and sum up all it holds.

        A case that ran out of memory is left out of later rounds.

        Args:
            model: a causal language model, as for `Engine`. On a CPU, a process that has computed
                with several threads cannot fork safely: call `torch.set_num_threads(1)` before
                loading the model. The runs use `threads`.
            tokenizer: its tokenizer.
            folder: the folder of `run.json` and `records.jsonl`.
            model_name: name of the model in the summary.
            progress: whether to show a bar on stderr. By default a bar on a terminal, and elsewhere
                a line every 30 seconds.
            same_policies: go on where a policy is described otherwise than that of the folder, as
                by another version of skipkv: you say that both do the same. The summary says so.

        Raises:
            InputError: the folder holds a run with other settings or policies, or cannot be
                written.
        """
        there = folder_at(folder)
        _make_room(model, self.prompt_tokens + self.new_tokens)
        rows = prompts(
            tokenizer, count=max(self.batch_sizes), tokens=self.prompt_tokens, seed=self.seed
        )
        with there.locked():
            self._open(there, model, rows, model_name, same_policies=same_policies)
            file = LineFile(there.path / there.records, Measurement)
            try:
                self._measure(file, model, tokenizer, rows, progress)
            finally:
                file.close()
        return Summary.of_folder(there.path)

    def settings(self) -> dict[str, Any]:
        """The settings that decide the measurements, without model and subjects."""
        names = ("interval", "new_tokens", "prompt_tokens", "seed", "threads")
        return {name: getattr(self, name) for name in names}

    def check_folder(self, folder: str | Path) -> None:
        """Raise unless this benchmark can use a folder; needs no model.

        Args:
            folder: the folder of `run.json` and `records.jsonl`.

        Raises:
            InputError: the folder holds a run with other settings, or cannot be written.
        """
        folder_at(folder).check(self.settings())

    def _budgets_of(self, subject: Subject) -> tuple[int | None, ...]:
        return self.budgets if subject.takes_budget else (None,)

    def _open(
        self,
        folder: RunFolder,
        model: Any,
        rows: tuple[tuple[int, ...], ...],
        model_name: str,
        *,
        same_policies: bool,
    ) -> None:
        """Check that this run can resume what the folder holds, and record it in `run.json`."""
        settings = self.settings()
        settings["model"] = fingerprints.of_model(model)
        settings["device"] = _device_name(model.device)
        settings["prompts"] = fingerprints.of_prompts(rows[:1])
        folder.check(settings)
        run = folder.read() or {"settings": settings, "model": model_name, "sessions": []}
        records, _ = read_lines(folder.path / folder.records, Measurement)
        run["policies"] = described(
            run.get("policies", {}),
            dict(self._stamps()),
            {_name(record.subject, record.budget) for record in records},
            folder.path,
            same_policies=same_policies,
        )
        run["sessions"].append(_session())
        folder.write(run)

    def _stamps(self) -> Iterator[tuple[str, dict[str, str]]]:
        """The stamp of every policy, by its label and budget."""
        for subject in self.subjects:
            if isinstance(subject, PolicySubject):
                for budget in self._budgets_of(subject):
                    policy = subject.policy(budget=budget, interval=self.interval)
                    yield _name(subject.label, budget), stamp(policy)

    def _measure(
        self,
        file: LineFile[Measurement],
        model: Any,
        tokenizer: Any,
        rows: tuple[tuple[int, ...], ...],
        progress: bool | None,
    ) -> None:
        by_label = {subject.label: subject for subject in self.subjects}
        done = {(m.case, m.repeat) for m in file}
        out = {m.case for m in file if not m.ok}
        todo = [(r, c) for r, c in self._turns() if (c, r) not in done]
        with progress_bar(progress, todo, unit="run") as bar:
            for repeat, case in bar:
                if case in out:
                    continue
                bar.set_description(f"round {repeat + 1}: {case}")
                subject = by_label[case.subject]
                job = Job(
                    model=model,
                    tokenizer=tokenizer,
                    prompts=rows[: case.batch_size],
                    new_tokens=self.new_tokens,
                    interval=self.interval,
                    budget=case.budget,
                    every=max(_APART, self.new_tokens // _POINTS),
                    threads=self.threads,
                )
                entries = subject.entries(job)
                measured = Measurement.of(
                    case,
                    repeat=repeat,
                    new_tokens=self.new_tokens,
                    answer=self._answer(subject, job),
                    held_bytes=None if entries is None else entries * _entry_bytes(job),
                    note=subject.note,
                )
                file.add(measured)
                if not measured.ok:
                    out.add(case)
                    tqdm.write(f"{case}: {measured.status}: {measured.reason}", file=sys.stderr)

    def _turns(self) -> Iterator[tuple[int, Case]]:
        for repeat in range(self.repeats):
            for case in self.cases():
                yield repeat, case

    def _answer(self, subject: Subject, job: Job) -> Answer:
        def work() -> Answer:
            if job.model.device.type == "cpu":
                torch.set_num_threads(self.threads)
            return subject.measure(job)

        if subject.in_process and can_fork(job.model.device):
            return in_child(work)
        before = torch.get_num_threads()
        try:
            return guarded(work)
        finally:
            torch.set_num_threads(before)
            if job.model.device.type == "cuda":
                torch.cuda.empty_cache()


def _name(label: str, budget: int | None) -> str:
    """What `run.json` calls a policy at a budget."""
    return label if budget is None else f"{label} at {budget}"


def _distinct(field: str, names: Sequence[str]) -> None:
    for name in names:
        if names.count(name) > 1:
            raise ConfigError(f"Bench({field}=...) holds {name} twice. Name it once.")


def _make_room(model: Any, length: int) -> None:
    """Let the model decode beyond its positions: a benchmark ignores the text."""
    limit = getattr(text_config(model), "max_position_embeddings", None)
    if limit is not None and length > limit:
        tqdm.write(
            f"skipkv: {length} tokens exceed the model's {limit} positions. The speed is the same, "
            "the text is not meaningful.",
            file=sys.stderr,
        )
        text_config(model).max_position_embeddings = length


def _entry_bytes(job: Job) -> int:
    """Bytes of one entry (a key and a value) in every head of all layers and sequences."""
    shape = cache_shape(job.model.config)
    per_sequence: int = 2 * shape.layers * shape.heads * shape.dim * job.model.dtype.itemsize
    return len(job.prompts) * per_sequence


def _device_name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type


def _session() -> dict[str, Any]:
    """The software and hardware of a run or a part of it; recorded, but not compared."""
    return {
        "started": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "versions": {
            "skipkv": __version__,
            "python": platform.python_version(),
            **{name: importlib.metadata.version(name) for name in ("torch", "transformers")},
        },
    }
