"""A sweep on Ray, on this machine: `make test-ray`."""

import os
import signal
from pathlib import Path
from typing import Any

import attrs
import pytest

pytest.importorskip("ray", reason="make test-ray installs it")

from skipkv import Budget, Policy, Sampling, presets
from skipkv.errors import InputError
from skipkv.evaluation import DataSet, Defaults, Problem, Sweep, merge
from skipkv.evaluation.records import Record, read_records
from skipkv.integrations.ray import run_on_ray
from skipkv.scorers import Recency
from skipkv.testing import toy_model, toy_tokenizer

MEASURED = ("seconds", "wall_seconds", "batch_size", "peak_kv_bytes")


def sweep_of(budgets: str = "16,60%", problems: int = 8) -> Sweep:
    data = DataSet(
        name="toy",
        problems=[Problem(id=str(i), question=f"{i}+1", answer="2") for i in range(problems)],
        defaults=Defaults(interval=8, max_new_tokens=60, batch_size=2, instruction=""),
    )
    mine = Policy(budget=Budget(tokens=20, interval=4), scorer=Recency())
    return Sweep(
        data=data,
        policies={"rkv": presets.rkv, "mine": mine},
        budgets=budgets,
        sampling=Sampling(temperature=1.0, n=2, seed=3),
    )


def loader(pids: Path) -> Any:
    """Loads the toy model in a worker, which leaves its process id."""

    def load() -> tuple[Any, Any]:
        (pids / str(os.getpid())).touch()
        return toy_model(eos=True), toy_tokenizer()

    return load


def records(folder: Path) -> dict[Any, Any]:
    """What was decoded, without what is measured; raises if a sample is there twice."""
    found = {}
    for record in read_records(folder / "records.jsonl")[0]:
        key = record.cell, record.problem, record.sample
        assert key not in found
        found[key] = {k: v for k, v in attrs.asdict(record).items() if k not in MEASURED}
    return found


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def lines_of_shards(folder: Path) -> int:
    return sum(len(path.read_text().splitlines()) for path in folder.glob("shards/*/records.jsonl"))


@pytest.fixture
def whole(tmp_path: Path) -> dict[Any, Any]:
    """What one process decodes."""
    sweep = sweep_of()
    sweep.run(toy_model(eos=True), toy_tokenizer(), tmp_path / "whole", progress=False)
    return records(tmp_path / "whole")


def test_a_worker_that_is_killed_costs_no_record_and_doubles_none(whole, tmp_path, capfd):
    (pids := tmp_path / "pids").mkdir()
    folder, seen = tmp_path / "out", []

    def kill_one(record: Record) -> None:
        seen.append(record)
        if len(seen) in (3, 30):  # in the baselines, and among the policies
            os.kill(next(filter(alive, map(int, os.listdir(pids)))), signal.SIGKILL)

    summary = run_on_ray(
        sweep_of(), loader(pids), folder, workers=2, progress=False, on_record=kill_one
    )
    # who takes over is a matter of time: the other worker, or the one that replaces the first
    assert "a worker was lost" in capfd.readouterr().err
    assert records(folder) == whole
    assert len(seen) == len(whole) == lines_of_shards(folder)
    assert [row.samples for row in summary.rows] == [16] * 4


def test_a_run_that_was_stopped_resumes_with_another_number_of_workers(whole, tmp_path):
    (pids := tmp_path / "pids").mkdir()
    folder, seen = tmp_path / "out", []

    def stop(record: Record) -> None:
        seen.append(record)
        if len(seen) == 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_on_ray(sweep_of(), loader(pids), folder, workers=2, progress=False, on_record=stop)
    before = lines_of_shards(folder)
    assert 5 <= before < len(whole)
    run_on_ray(sweep_of(), loader(pids), folder, workers=1, progress=False, on_record=seen.append)
    assert records(folder) == whole
    assert lines_of_shards(folder) == len(whole)
    # a larger sweep adds to it, and one process goes on with it
    run_on_ray(sweep_of("16,20,60%"), loader(pids), folder, workers=1, progress=False)
    assert len(records(folder)) == len(whole) + 16
    model, tokenizer = toy_model(eos=True), toy_tokenizer()
    sweep_of("16,20,24,60%").run(model, tokenizer, folder, progress=False)
    with pytest.raises(InputError, match=r"samples that no shard has, as of toy: rkv at 24"):
        run_on_ray(sweep_of(), loader(pids), folder, workers=1, progress=False)


def test_what_cannot_work_is_said_and_ends(tmp_path):
    def load() -> Any:
        raise InputError("No such model.")

    def die() -> Any:
        os.kill(os.getpid(), signal.SIGKILL)

    with pytest.raises(InputError, match="Give --workers N"):
        run_on_ray(sweep_of(), load, tmp_path / "a", progress=False)
    with pytest.raises(InputError, match=r"--workers 99 must be 1 to"):
        run_on_ray(sweep_of(), load, tmp_path / "a", workers=99, progress=False)
    with pytest.raises(InputError, match=r"^No such model\.$"):
        run_on_ray(sweep_of(), load, tmp_path / "a", workers=1, progress=False)
    with pytest.raises(InputError, match=r"3 workers in a row were lost.* while it loaded"):
        run_on_ray(sweep_of(), die, tmp_path / "a", workers=1, progress=False)


def test_the_command_decodes_in_workers(run, tmp_path):
    common = (
        "eval", "--model", "tiny", "--limit", "4", "-p", "rkv", "-b", "160,50%", "-n", "300",
        "--device", "cpu",
    )  # fmt: skip
    result = run(*common, "--output", tmp_path / "out", "--engine", "ray", "--workers", "2")
    assert result.exit_code == 0, result.output
    assert (tmp_path / "out" / "summary.md").exists()
    merge(tmp_path / "out")
    alone = run(*common, "--output", tmp_path / "alone")
    assert alone.exit_code == 0
    assert records(tmp_path / "out") == records(tmp_path / "alone")
