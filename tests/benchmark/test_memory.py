"""Memory of a process: what is held, and what was held for a moment."""

import sys

import pytest
import torch

from skipkv.benchmark.isolation import in_child
from skipkv.benchmark.memory import Meter, ProcessMemory, meter_for

MB = 2**20


@pytest.mark.skipif(sys.platform != "linux", reason="resident memory is read from /proc")
def test_short_lived_tensors_count_in_the_peak_and_not_afterwards() -> None:
    def work() -> dict[str, object]:
        meter = meter_for(torch.device("cpu"))
        meter.start()
        kept = torch.ones(20 * MB, dtype=torch.uint8)
        torch.ones(60 * MB, dtype=torch.uint8)
        return {"now": meter.now(), "peak": meter.peak(), "kept": kept.numel()}

    found = in_child(work)
    assert 19 * MB < found["now"] < 30 * MB
    assert 79 * MB < found["peak"] < 95 * MB


def test_a_meter_of_the_process_is_a_meter() -> None:
    assert isinstance(ProcessMemory(), Meter)
