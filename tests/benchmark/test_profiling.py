"""The profile times what is there, and leaves nothing behind."""

import time
from typing import Any

import pytest
import torch

from skipkv.benchmark import Bench, policies_of
from skipkv.benchmark.profiling import REST, Clocks, profile_table


def test_a_phase_has_only_the_time_that_is_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0

    def pass_by(seconds: float) -> None:
        nonlocal now
        now += seconds

    monkeypatch.setattr(time, "perf_counter", lambda: now)
    clocks = Clocks(torch.device("cpu"))
    inner = clocks.timed("inner", lambda: pass_by(2.0))

    def work() -> None:
        pass_by(1.0)
        inner()
        inner()

    clocks.resume()
    clocks.timed("outer", work)()
    pass_by(8.0)
    clocks.lap("step")
    inner()
    clocks.lap("event")
    assert dict(clocks.seconds) == {
        ("step", "inner"): 4.0,
        ("step", "outer"): 1.0,
        ("step", REST): 8.0,
        ("event", "inner"): 2.0,
        ("event", REST): 0.0,
    }


def test_the_table_has_a_column_per_policy_and_times_of_events(small: tuple[Any, Any]) -> None:
    subjects = policies_of(["full,skipkv:window=2"], settings={}, config=small[0].config)
    bench = Bench(
        subjects=subjects,
        batch_sizes=[2],
        budgets=[16],
        interval=4,
        new_tokens=14,
        prompt_tokens=10,
    )

    def hooks() -> list[int]:
        return [len(m._forward_hooks) + len(m._forward_pre_hooks) for m in small[0].modules()]

    before = hooks()
    text = profile_table(subjects, *small, bench)
    assert hooks() == before
    assert "| phase | full | skipkv:window=2 |" in text
    rows = {line.split(" | ")[0].strip("| "): line.split(" | ")[1:] for line in text.splitlines()}
    for phase in ("attention", "model", "the rest of a step"):
        assert all(float(cell.strip(" |")) > 0 for cell in rows[phase]), phase
    for phase in ("scores", "eviction", "sentences", "the rest of an event"):
        assert float(rows[phase][1].strip(" |")) > 0, phase
    assert rows["scores"][0] == "-"
