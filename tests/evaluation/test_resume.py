"""A run that is killed goes on as if nothing had happened."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import attrs
import pytest

from skipkv import Sampling
from skipkv.evaluation import DataSet, Defaults, Problem, Sweep
from skipkv.evaluation.records import read_records
from skipkv.evaluation.summary import TIMING
from skipkv.testing import toy_model, toy_tokenizer

ROOT = Path(__file__).parents[2]


def run(folder):
    """A sweep of 24 samples: traces of many lengths, sequences in flight beside the one written."""
    data = DataSet(
        name="toy",
        problems=[Problem(id=str(i), question=f"one plus {i}", answer="1") for i in range(4)],
        defaults=Defaults(interval=8, max_new_tokens=40, batch_size=3, instruction=""),
    )
    sweep = Sweep(
        data=data,
        policies="rkv",
        budgets="16,60%",
        sampling=Sampling(temperature=1.0, n=2, seed=3),
    )
    return sweep.run(toy_model(eos=True), toy_tokenizer(), folder, progress=False)


# Dies by a signal when a file becomes larger than allowed: with a part of a record written.
KILLED = """
import resource, signal, sys
from test_resume import run

signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[2]),) * 2)
run(sys.argv[1])
"""


def kill_at(folder: Path, size: int) -> None:
    """Start the sweep in a process of its own, which is killed when a file reaches this size."""
    died = subprocess.run(
        [sys.executable, "-c", KILLED, str(folder), str(size)],
        env={**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{Path(__file__).parent}"},
        capture_output=True,
        check=False,
    )
    assert died.returncode == -signal.SIGXFSZ, died.stderr.decode()


def untimed(summary):
    return [attrs.evolve(row, **dict.fromkeys(TIMING, 0.0)) for row in summary.rows]


def untimed_records(folder):
    records, _ = read_records(folder / "records.jsonl")
    return {
        (r.cell, r.problem, r.sample): attrs.evolve(r, seconds=0.0, wall_seconds=0.0)
        for r in records
    }


@pytest.mark.skipif(not hasattr(signal, "SIGXFSZ"), reason="no limit of file sizes here")
def test_a_killed_run_goes_on_to_the_summary_of_an_undisturbed_one(tmp_path):
    undisturbed = run(tmp_path / "undisturbed")
    lines = (tmp_path / "undisturbed" / "records.jsonl").read_bytes().splitlines(keepends=True)
    path = tmp_path / "killed" / "records.jsonl"
    for whole in (6, 14):  # in the baseline, and among the policies
        half = len(lines[whole]) // 2  # lines differ by the digits of their times
        kill_at(tmp_path / "killed", sum(map(len, lines[:whole])) + half)
        assert not path.read_bytes().endswith(b"\n"), "the last line was to be torn"
    done, _ = read_records(path)
    assert len(done) == 14

    killed = run(tmp_path / "killed")

    assert untimed(killed) == untimed(undisturbed)
    records, _ = read_records(path)
    assert records[:14] == done, "a finished sample was decoded again"
    assert len(records) == 24
    assert untimed_records(tmp_path / "killed") == untimed_records(tmp_path / "undisturbed")
    assert len({row.new_tokens.value for row in killed.rows}) > 1, "all alike: proves nothing"
