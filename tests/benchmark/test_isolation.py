"""A run in a process of its own, and what ends it."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from skipkv._runs import RunFolder

ROOT = Path(__file__).parents[2]

MEASURING = """
import os, sys, time
from skipkv._runs import RunFolder
from skipkv.benchmark.isolation import in_child

def measure():
    print("measuring", flush=True)
    time.sleep(600)

with RunFolder(sys.argv[1], "bench").locked():
    in_child(measure)
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="runs are forked on Linux only")
@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL], ids=lambda s: s.name)
def test_a_benchmark_that_is_killed_takes_its_child_along_and_frees_the_folder(
    how: signal.Signals, tmp_path: Path
) -> None:
    bench = subprocess.Popen(
        [sys.executable, "-c", MEASURING, str(tmp_path)],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
    )
    assert bench.stdout is not None
    assert bench.stdout.readline() == b"measuring\n"
    bench.send_signal(how)
    # stdout ends when all processes that hold it have ended, the child among them
    assert bench.communicate(timeout=60) == (b"", None)
    assert bench.returncode == -how
    with RunFolder(tmp_path, "bench").locked():
        pass
