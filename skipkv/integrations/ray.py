"""A sweep on Ray: its shards are decoded by workers, and a worker that is lost is replaced.

It needs the extra `ray`. Plain actors do: the records of a sweep are files that survive a worker,
so nothing has to pass through Ray but the number of a shard.
"""

import json
import os
import platform
import sys
import uuid
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import attrs
from tqdm.auto import tqdm

from skipkv._progress import progress_bar
from skipkv._runs import require_extra, writing
from skipkv.errors import InputError, SkipKVError
from skipkv.evaluation import Record, Shard, Summary, Sweep, merge, summarize
from skipkv.evaluation.cells import FULL
from skipkv.evaluation.shards import check_joinable, found_shards
from skipkv.evaluation.summary import folder_at
from skipkv.evaluation.sweep import OnRecord, check_extras

__all__ = ["run_on_ray"]

_LOOK = 0.5  # seconds between two looks at the records
_LOSSES = 3  # workers that may be lost in a row, without a record between


def run_on_ray(
    sweep: Sweep,
    load: Callable[[], tuple[Any, Any]],
    folder: str | Path,
    *,
    workers: int | None = None,
    batch_size: int | None = None,
    texts: bool = True,
    progress: bool | None = None,
    model_name: str | None = None,
    plot_format: str = "png",
    same_policies: bool = False,
    on_record: OnRecord | None = None,
) -> Summary:
    """Decode the samples that a folder lacks in workers of Ray, and sum up all it holds.

    Each worker loads the model and decodes one shard after another, as `Sweep.run_shard` does, into
    the sweep's folder: all nodes must see it under one path. A worker that is lost is replaced, and
    its shard resumes from its records. A run that was interrupted or killed resumes when it is
    started again, also with another number of workers.

    Ray is started on this machine, unless it runs already or RAY_ADDRESS names a cluster.

    Args:
        sweep: the sweep.
        load: returns a model and its tokenizer; called once in each worker.
        folder: as for `Sweep.run`.
        workers: how many; by default one per GPU. Without a GPU they share the CPUs.
        batch_size: as for `Sweep.run`.
        texts: as for `Sweep.run`.
        progress: as for `Sweep.run`.
        model_name: as for `Sweep.run`.
        plot_format: as for `Sweep.run`.
        same_policies: as for `Sweep.run`.
        on_record: as for `Sweep.run`; called here, within a second of the sample's end.

    Raises:
        InputError: as for `Sweep.run`; or there are more workers than GPUs or CPUs, a worker does
            not see the folder, or three in a row were lost.
        ConfigError: as for `Sweep.run`.
        MissingExtraError: an extra is not installed.
    """
    check_extras()
    require_extra("ray", "ray")
    folder = Path(folder).absolute()
    sweep.check_folder(folder)
    check_joinable(folder)
    with _ray() as ray:
        count, share = _workers(ray, workers)
        shards = _shards(sweep, folder, count)
        options = {
            "batch_size": batch_size,
            "texts": texts,
            "model_name": model_name,
            "same_policies": same_policies,
        }
        with _seen(folder) as token:
            actor = ray.remote(max_restarts=0, max_task_retries=0, **share)(_Worker)
            # read in the worker, when it knows where this process finds modules
            work = ray.cloudpickle.dumps((sweep, load))
            here = os.getcwd(), list(sys.path)
            start = partial(actor.remote, work, str(folder), token, here, options)
            pool = _Pool(ray, start, min(count, len(shards)))
            reader = _Reader.of(sweep, folder, shards)
            with progress_bar(progress, total=sweep.samples, unit="sample", smoothing=0) as bar:
                bar.initial = bar.n = len(reader.new())
                bar.set_description(f"{pool.size} workers")
                bar.refresh()

                def look() -> int:
                    found = reader.new()
                    for record in found:
                        if record.error is not None:
                            place = f"{record.cell}: problem {record.problem}"
                            tqdm.write(f"{place}: {record.error}", file=sys.stderr)
                        bar.update()
                        if on_record is not None:
                            on_record(record)
                    return len(found)

                try:
                    waiting = pool.decode(shards, look)
                    pool.decode(waiting, look)  # now that all of the full cache is there
                finally:
                    pool.close()
    merge(folder, same_policies=same_policies)
    return summarize(folder, plot_format=plot_format)


class _Worker:
    """Decodes shards in a process of Ray's."""

    def __init__(
        self,
        work: bytes,
        folder: str,
        token: str,
        here: tuple[str, list[str]],
        options: dict[str, Any],
    ) -> None:
        self._work, self._folder, self._token = work, folder, token
        self._here, self._options = here, options

    def start(self) -> None:
        """Load the model. It is not done when the actor is made: an error would be a lost actor."""
        import ray

        try:
            seen = _token_file(Path(self._folder)).read_text()
        except OSError:
            seen = ""
        if seen != self._token:
            raise InputError(
                f"A worker on {platform.node()} does not see the folder {self._folder}. Choose "
                "one with --output that all nodes see under one path."
            )
        home, path = self._here
        if os.path.isdir(home):
            os.chdir(home)  # where relative paths of models and vectors begin
        sys.path += [entry for entry in path if entry not in sys.path]
        self._sweep, load = ray.cloudpickle.loads(self._work)
        self._model, self._tokenizer = load()

    def decode(self, index: int, of: int) -> bool:
        """Decode a shard; returns whether it is done."""
        shard = Shard(index=index, of=of)
        done: bool = self._sweep.run_shard(
            self._model,
            self._tokenizer,
            self._folder,
            shard=shard,
            progress=False,
            **self._options,
        )
        return done


@contextmanager
def _ray() -> Iterator[Any]:
    """Ray, started for this block unless it runs already."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # nothing is reported unless asked for
    import ray

    if ray.is_initialized():
        yield ray
        return
    local = {} if os.environ.get("RAY_ADDRESS") else {"include_dashboard": False}
    # failed samples are shown here, from their records
    ray.init(log_to_driver=False, logging_level="WARNING", **local)
    try:
        yield ray
    finally:
        ray.shutdown()


def _workers(ray: Any, asked: int | None) -> tuple[int, dict[str, Any]]:
    """How many workers there are, and what each has of the cluster."""
    there = ray.cluster_resources()
    gpus, cpus = int(there.get("GPU", 0)), int(there.get("CPU", 0))
    if asked is None and not gpus:
        raise InputError(
            f"Ray has no GPU here. Give --workers N: so many workers share its {cpus} CPUs."
        )
    most, unit = (gpus, "GPUs") if gpus else (cpus, "CPUs")
    count = most if asked is None else asked
    if not 1 <= count <= most:
        raise InputError(f"--workers {count} must be 1 to {most}: Ray has {most} {unit}.")
    if gpus:
        return count, {"num_gpus": 1}
    return count, {"num_cpus": cpus // count}


def _shards(sweep: Sweep, folder: Path, workers: int) -> list[Shard]:
    """One per worker; those of an earlier run, where there was one, since records are theirs."""
    counts = {shard.of for shard in found_shards(folder)}
    of = counts.pop() if counts else min(workers, *(len(data.problems) for data in sweep.data))
    if counts:
        raise InputError(
            f"{folder}/shards holds shards of several numbers. Move those away that do not belong "
            "together."
        )
    return [Shard(index=index, of=of) for index in range(of)]


def _token_file(folder: Path) -> Path:
    return folder / "seen-by-workers"


@contextmanager
def _seen(folder: Path) -> Iterator[str]:
    """A token in the folder, by which workers know that it is the same one; locks the folder."""
    token = uuid.uuid4().hex
    with folder_at(folder).locked():
        with writing(folder):
            _token_file(folder).write_text(token)
        try:
            yield token
        finally:
            _token_file(folder).unlink(missing_ok=True)


class _Pool:
    """Workers, and what they do now."""

    def __init__(self, ray: Any, start: Callable[[], Any], size: int) -> None:
        self.size = size
        self._ray, self._start = ray, start
        self._running: dict[Any, tuple[Any, Shard | None]] = {}  # None: it loads the model
        self._idle: list[Any] = []
        self._all: list[Any] = []

    def decode(self, shards: list[Shard], look: Callable[[], int]) -> list[Shard]:
        """Decode shards; returns those that wait for the full cache of others.

        Args:
            shards: the shards.
            look: called now and then; returns how many records are new.
        """
        todo, waits, losses = deque(shards), list[Shard](), 0
        while todo or any(shard is not None for _, shard in self._running.values()):
            while todo and self._idle:
                worker, part = self._idle.pop(), todo.popleft()
                self._running[worker.decode.remote(part.index, part.of)] = worker, part
            while len(self._all) < min(self.size, len(shards)):
                self._all.append(self._start())
                self._running[self._all[-1].start.remote()] = self._all[-1], None
            done, _ = self._ray.wait(list(self._running), timeout=_LOOK)
            if look():
                losses = 0
            for ref in done:
                worker, shard = self._running.pop(ref)
                try:
                    complete = self._ray.get(ref)
                except self._ray.exceptions.RayTaskError as error:
                    raise (error.cause if isinstance(error.cause, SkipKVError) else error) from None
                except self._ray.exceptions.RayError as error:
                    losses += 1
                    self._lost(worker, shard, losses, error)
                    todo.extend([shard] if shard is not None else [])
                    continue
                self._idle.append(worker)
                if shard is not None and not complete:
                    waits.append(shard)
        look()
        return waits

    def _lost(self, worker: Any, shard: Shard | None, losses: int, error: Exception) -> None:
        """Forget a worker that was lost; the next round starts another."""
        self._all.remove(worker)
        what = "while it loaded the model" if shard is None else f"with shard {shard}"
        if losses >= _LOSSES:
            raise InputError(
                f"{losses} workers in a row were lost, the last one {what}: "
                f"{' '.join(str(error).split())[:300]} What is done is kept. Linux ends processes "
                "where memory runs out: take fewer workers or a smaller --batch-size."
            ) from error
        tqdm.write(f"skipkv: a worker was lost {what}; another goes on.", file=sys.stderr)

    def close(self) -> None:
        """End all workers, also in the middle of their work."""
        for worker in self._all:
            self._ray.kill(worker)


@attrs.define
class _Reader:
    """Reads what workers add to the records of shards, each line once."""

    wanted: Callable[[Record], bool]
    read: dict[Path, int]

    @classmethod
    def of(cls, sweep: Sweep, folder: Path, shards: list[Shard]) -> "_Reader":
        """A reader of the records that a sweep asks for."""
        labels = {FULL, *(candidate.label for candidate in sweep.policies)}
        budgets = {None, *map(str, sweep.budgets)}
        problems = {data.name: {p.id for p in data.problems} for data in sweep.data}

        def wanted(record: Record) -> bool:
            return (
                record.policy in labels
                and record.asked in budgets
                and record.problem in problems.get(record.data, ())
            )

        records = folder_at(folder).records
        return cls(wanted, {shard.folder(folder) / records: 0 for shard in shards})

    def new(self) -> list[Record]:
        """The records since the last call. Half a line is left for the next one."""
        found = []
        for path, start in self.read.items():
            if not path.exists():
                continue
            with path.open("rb") as file:
                file.seek(start)
                whole, newline, _ = file.read().rpartition(b"\n")
            self.read[path] = start + len(whole + newline)
            found += [Record(**json.loads(line)) for line in whole.split(b"\n") if line.strip()]
        return [record for record in found if self.wanted(record)]
