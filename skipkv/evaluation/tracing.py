"""Decodes again, with traces, some samples that the full cache solves and a policy does not."""

import hashlib
import re
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice, zip_longest
from pathlib import Path
from typing import Any

import attrs

from skipkv._runs import RECORDS, writing
from skipkv.evaluation.candidates import Candidate, full
from skipkv.evaluation.cells import FULL, Cell
from skipkv.evaluation.datasets import DataSet
from skipkv.evaluation.failures import FOLDER, Failure, read_failures, write_failures
from skipkv.evaluation.fingerprints import seed_of
from skipkv.evaluation.prompts import encode
from skipkv.evaluation.records import Record, read_records
from skipkv.evaluation.summary import folder_at
from skipkv.evaluation.sweep import Sweep
from skipkv.runtime import Engine
from skipkv.trace import Recorder, Trace, page

_Job = tuple[str, int]


def trace_failures(
    sweep: Sweep,
    model: Any,
    tokenizer: Any,
    folder: str | Path,
    most: int,
    *,
    batch_size: int | None = None,
) -> list[Failure]:
    """Trace samples that the full cache solves and a policy does not.

    They are decoded again, with a recorder. For each there are two traces and a page that shows
    them side by side, in the folder `failures` of the sweep. What was traced before is kept.
    `summarize` then links the pages.

    Args:
        sweep: the sweep, which has run.
        model: its model.
        tokenizer: the model's tokenizer.
        folder: the sweep's folder.
        most: how many per policy, budget and data set at most: the first in the data set's order.
        batch_size: sequences decoded together; by default the data set's.

    Returns:
        All failures traced, those of earlier calls too.

    Raises:
        InputError: the folder cannot be written.
    """
    folder = Path(folder)
    (folder / FOLDER).mkdir(parents=True, exist_ok=True)
    with folder_at(folder).locked():
        done = {failure.key: failure for failure in read_failures(folder)}
        records = read_records(folder / RECORDS)[0]
        for data in sweep.data:
            chosen = {
                cell: [j for j in jobs if (*_name(cell), *j) not in done]
                for cell, jobs in _chosen(sweep, data, records, most).items()
            }
            wanted = list(dict.fromkeys(job for jobs in chosen.values() for job in jobs))
            decoder = _Decoder(sweep, data, model, tokenizer, batch_size)
            right = decoder.traces(full(), None, wanted)
            before = {(r.cell, r.problem, r.sample): r for r in records}
            for cell, jobs in chosen.items():
                candidate = next(c for c in sweep.policies if c.label == cell.policy)
                wrong = decoder.traces(candidate, cell.budget, jobs)
                for job in jobs:
                    pair = right[job], wrong[job]
                    failure = _failure(folder, cell, job, *pair)
                    known = [before[c, *job] for c in (Cell(data=cell.data, policy=FULL), cell)]
                    same = all(map(decoder.is_as, pair, known))
                    done[failure.key] = attrs.evolve(failure, same=same)
            write_failures(folder, done.values())
    return list(done.values())


def _name(cell: Cell) -> tuple[str, str, str | None]:
    return cell.data, cell.policy, cell.asked


def _chosen(
    sweep: Sweep, data: DataSet, records: Sequence[Record], most: int
) -> Mapping[Cell, list[_Job]]:
    """Per cell of a sweep, the first samples that the full cache solves and the policy does not."""
    own = {(r.cell, r.problem, r.sample): r for r in records if r.data == data.name}
    labels = {candidate.label for candidate in sweep.policies}
    asked = {None, *map(str, sweep.budgets)}
    cells = dict.fromkeys(cell for cell, *_ in own if cell.policy in labels and cell.asked in asked)

    def failures(cell: Cell) -> Iterator[_Job]:
        for problem in data.problems:
            for sample in range(sweep.sampling.n):
                right = own.get((Cell(data=data.name, policy=FULL), problem.id, sample))
                wrong = own.get((cell, problem.id, sample))
                if right and right.correct and wrong and not (wrong.correct or wrong.failed):
                    yield problem.id, sample

    return {cell: list(islice(failures(cell), most)) for cell in cells if not cell.is_full}


class _Decoder:
    """Decodes samples of a data set as the sweep does, and records them."""

    def __init__(
        self, sweep: Sweep, data: DataSet, model: Any, tokenizer: Any, batch_size: int | None
    ) -> None:
        self._sweep, self._data = sweep, data
        self._model, self._tokenizer = model, tokenizer
        self._width = batch_size or data.defaults.batch_size
        ids = encode(data, tokenizer).ids
        self._prompts = {p.id: own for p, own in zip(data.problems, ids, strict=True)}

    def traces(
        self, candidate: Candidate, budget: int | None, jobs: Sequence[_Job]
    ) -> dict[_Job, Trace]:
        """The trace of each sample.

        Args:
            candidate: the policy.
            budget: its budget in tokens.
            jobs: problem and sample of each.
        """
        if not jobs:
            return {}
        sweep, defaults = self._sweep, self._data.defaults
        policy = candidate.policy(budget=budget, interval=sweep.interval or defaults.interval)
        engine = Engine(
            self._model, self._tokenizer, policy, batch_size=min(self._width, len(jobs))
        )
        recorder = Recorder(engine, scores=True)
        completions = engine.generate(
            [self._prompts[problem] for problem, _ in jobs],
            max_new_tokens=sweep.max_new_tokens or defaults.max_new_tokens,
            sampling=attrs.evolve(sweep.sampling, n=1),
            seeds=[seed_of(sweep.sampling.seed, self._data.name, *job) for job in jobs],
            progress=False,
            observers=[recorder],
        )
        for _ in completions:
            pass
        return {jobs[trace.about["index"]]: trace for trace in recorder.traces}

    def is_as(self, trace: Trace, record: Record) -> bool:
        """Whether a trace has a record's text; its length, if the text was not kept."""
        decoded = trace.ids[trace.prompt_tokens :].tolist()
        text = str(self._tokenizer.decode(decoded, skip_special_tokens=False))
        return len(decoded) == record.new_tokens and record.text in (None, text)


def _failure(folder: Path, cell: Cell, job: _Job, right: Trace, wrong: Trace) -> Failure:
    """Write traces and page of a failure."""
    digest = hashlib.sha256(repr((_name(cell), job)).encode()).hexdigest()[:10]
    stem = f"{re.sub(r'[^A-Za-z0-9]+', '-', cell.policy)[:40]}-{digest}"
    place = folder / FOLDER
    right.save(place / f"{stem}-full.npz")
    wrong.save(place / f"{stem}.npz")
    budget = "" if cell.asked is None else f" at {cell.asked}"
    labels = ["full cache", f"{cell.policy}{budget}, problem {job[0]}"]
    content = page([right, wrong], labels)
    with writing(place / f"{stem}.html"):
        (place / f"{stem}.html").write_text(content, encoding="utf-8")
    start = right.prompt_tokens
    pairs = zip_longest(right.ids[start:].tolist(), wrong.ids[start:].tolist())
    differs = next((n for n, (a, b) in enumerate(pairs) if a != b), None)
    at = len(right.ids) + len(wrong.ids) if differs is None else start + differs
    return Failure(
        data=cell.data,
        policy=cell.policy,
        asked=cell.asked,
        problem=job[0],
        sample=job[1],
        page=f"{stem}.html",
        differs=differs,
        instead=["".join(trace.pieces[at : at + 1]) for trace in (right, wrong)],
        same=True,
    )
