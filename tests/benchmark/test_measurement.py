"""The arithmetic of one run, and its way to disk and back."""

import statistics
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from skipkv._runs import LineFile, read_lines
from skipkv.benchmark import Measurement

seconds = st.floats(1e-4, 10.0)
quiet = settings(suppress_health_check=[HealthCheck.function_scoped_fixture])


@quiet
@given(st.lists(seconds, min_size=1, max_size=40), st.lists(seconds, max_size=5))
def test_a_step_carries_its_share_of_the_events(
    measured: Callable[..., Measurement], steps: list[float], events: list[float]
) -> None:
    m = measured(steps=tuple(steps), events=tuple(events))
    whole = sum(steps) + sum(events)
    assert m.decode_step == pytest.approx(whole / len(steps))
    assert m.event_share == pytest.approx(sum(events) / whole)
    typical = statistics.median(steps)
    if events:
        typical += statistics.median(events) * len(events) / len(steps)
    assert m.typical_step == pytest.approx(typical)
    assert min(steps) <= m.step_median <= m.step_p95 <= max(steps)
    assert sum(step <= m.step_p95 for step in steps) >= 0.95 * len(steps)
    assert sum(step < m.step_p95 for step in steps) < 0.95 * len(steps)
    assert m.cpu_step == pytest.approx(3.0 / len(steps))
    assert m.tokens_per_second == pytest.approx(2 * (len(steps) + 1) / (1.0 + whole))


@pytest.mark.parametrize("status", ["oom", "error"])
def test_what_kept_a_run_from_ending_stands_in_its_place(
    status: str, measured: Callable[..., Measurement]
) -> None:
    m = measured(answer={status: "because"})
    assert (m.status, m.reason, m.ok) == (status, "because", False)
    assert m.tokens_per_second is m.decode_step is m.typical_step is m.cpu_step is None


def test_measurements_read_back_as_they_were(
    measured: Callable[..., Measurement], tmp_path: Path
) -> None:
    file = LineFile(tmp_path / "r.jsonl", Measurement)
    file.add(measured(events=(0.5,), held_bytes=7))
    file.add(measured(answer={"oom": "no memory"}, note="a note"))
    file.close()
    assert read_lines(tmp_path / "r.jsonl", Measurement)[0] == file.records
