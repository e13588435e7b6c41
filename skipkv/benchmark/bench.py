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
from skipkv._runs import LineFile, RunFolder, differs, stamp
from skipkv._validators import is_a
from skipkv.benchmark.case import Case, Job
from skipkv.benchmark.isolation import Answer, can_fork, guarded, in_child
from skipkv.benchmark.measurement import Measurement
from skipkv.benchmark.prompts import prompts
from skipkv.benchmark.subjects import PolicySubject, Subject
from skipkv.benchmark.summary import Summary, folder_at
from skipkv.errors import ConfigError, InputError
from skipkv.evaluation import fingerprints
from skipkv.runtime.support import cache_shape

# Points of a curve over the generated length, and the fewest tokens between two of them.
_POINTS, _APART = 128, 16


def _ints(values: Iterable[int]) -> tuple[int, ...]:
    return tuple(values)


def _subjects(values: Iterable[Subject]) -> tuple[Subject, ...]:
    return tuple(values)


@attrs.frozen(kw_only=True)
class Bench:
    """What is to be measured.

    Every subject decodes the same prompts to the same length. They take turns, round by round, so
    that a machine whose speed drifts treats them alike; ratios are taken within a round. On a CPU
    under Linux every run has a process of its own, forked from the one that holds the model: memory
    begins at the same place for all, and a run that exhausts it ends alone.

    Args:
        subjects: policies and baselines.
        batch_sizes: sequences decoded side by side.
        budgets: entries per KV head, for subjects that take one.
        interval: steps between two events.
        new_tokens: tokens decoded per sequence; nothing ends one earlier.
        prompt_tokens: length of the prompts.
        repeats: rounds.
        seed: of the prompts.
        threads: of the runs, on a CPU.

    Raises:
        ConfigError: a part of it cannot work; nothing was decoded then.
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
    ) -> Summary:
        """Measure what the folder does not hold yet, and sum up all it holds.

        A case that ran out of memory once is not tried again in later rounds.

        Args:
            model: a causal language model, as for `Engine`. On a CPU, a process that computed with
                more than one thread before cannot fork safely: call `torch.set_num_threads(1)`
                before loading it. Runs have `threads` of their own.
            tokenizer: its tokenizer.
            folder: where `run.json` and `records.jsonl` go.
            model_name: what the summary calls it.
            progress: show a bar on stderr, or nothing. Default: a bar on a terminal, a line every
                30 seconds elsewhere.

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
            self._open(there, model, rows, model_name)
            file = LineFile(there.path / there.records, Measurement)
            try:
                self._measure(file, model, tokenizer, rows, progress)
            finally:
                file.close()
        return Summary.of_folder(there.path)

    def settings(self) -> dict[str, Any]:
        """All that decides what is measured, but for model and subjects."""
        names = ("interval", "new_tokens", "prompt_tokens", "seed", "threads")
        return {name: getattr(self, name) for name in names}

    def check_folder(self, folder: str | Path) -> None:
        """Raise unless this can be measured into a folder; needs no model.

        Args:
            folder: where `run.json` and `records.jsonl` go.

        Raises:
            InputError: it holds a run with other settings, or cannot be written.
        """
        folder_at(folder).check(self.settings())

    def _budgets_of(self, subject: Subject) -> tuple[int | None, ...]:
        return self.budgets if subject.takes_budget else (None,)

    def _open(
        self, folder: RunFolder, model: Any, rows: tuple[tuple[int, ...], ...], model_name: str
    ) -> None:
        """See that this run goes on with what the folder holds, and note that it does."""
        settings = self.settings()
        settings["model"] = fingerprints.of_model(model)
        settings["device"] = _device_name(model.device)
        settings["prompts"] = fingerprints.of_prompts(rows[:1])
        folder.check(settings)
        run = folder.read() or {"settings": settings, "model": model_name, "sessions": []}
        policies = run.setdefault("policies", {})
        for name, now in self._stamps():
            changed = differs(policies.setdefault(name, now), now)
            if changed is not None:
                raise InputError(
                    f"{folder.path} holds {name} measured with another policy: {changed}. Choose "
                    "another folder, or another name for the policy."
                )
        run["sessions"].append(_session())
        folder.write(run)

    def _stamps(self) -> Iterator[tuple[str, dict[str, str]]]:
        """What every policy is made of, under its label and budget."""
        for subject in self.subjects:
            if isinstance(subject, PolicySubject):
                for budget in self._budgets_of(subject):
                    name = subject.label if budget is None else f"{subject.label} at {budget}"
                    yield name, stamp(subject.policy(budget=budget, interval=self.interval))

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


def _distinct(field: str, names: Sequence[str]) -> None:
    for name in names:
        if names.count(name) > 1:
            raise ConfigError(f"Bench({field}=...) holds {name} twice. Name it once.")


def _make_room(model: Any, length: int) -> None:
    """Let the model decode beyond what it was made for; what it says there is nobody's concern."""
    limit = getattr(model.config, "max_position_embeddings", None)
    if limit is not None and length > limit:
        tqdm.write(
            f"skipkv: {length} tokens exceed the model's {limit} positions; for speed that does "
            "not matter.",
            file=sys.stderr,
        )
        model.config.max_position_embeddings = length


def _entry_bytes(job: Job) -> int:
    """Bytes of one entry per head of all layers, heads and sequences: a key and a value."""
    shape = cache_shape(job.model.config)
    per_sequence: int = 2 * shape.layers * shape.heads * shape.dim * job.model.dtype.itemsize
    return len(job.prompts) * per_sequence


def _device_name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type


def _session() -> dict[str, Any]:
    """With what a run, or a part of it, was made; compared with nothing."""
    return {
        "started": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "versions": {
            "skipkv": __version__,
            "python": platform.python_version(),
            **{name: importlib.metadata.version(name) for name in ("torch", "transformers")},
        },
    }
