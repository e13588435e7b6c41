"""The profile times what is there, and leaves nothing behind."""

import time
from typing import Any

import pytest
import torch

from skipkv.benchmark import Bench, policies_of
from skipkv.benchmark.profiling import PHASES, Clocks, _holder, clocked, profile_table


@pytest.mark.parametrize("phase", PHASES, ids=[phase[0] for phase in PHASES])
def test_every_phase_names_something_of_the_runtime(phase: tuple[str, str, str, str]) -> None:
    holder, name = _holder(phase[2], phase[3])
    assert callable(getattr(holder, name))


def test_afterwards_the_runtime_is_as_it_was() -> None:
    def functions() -> list[Any]:
        return [getattr(*_holder(module, path)) for _, _, module, path in PHASES]

    before = functions()
    with clocked(torch.device("cpu")):
        assert all(a is not b for a, b in zip(functions(), before, strict=True))
    assert functions() == before


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

    clocks.timed("outer", work)()
    assert dict(clocks.seconds) == {"inner": 4.0, "outer": 1.0}
    assert dict(clocks.calls) == {"inner": 2, "outer": 1}


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
    text = profile_table(subjects, *small, bench)
    assert "| phase | full | skipkv:window=2 |" in text
    rows = {line.split(" | ")[0].strip("| "): line.split(" | ")[1:] for line in text.splitlines()}
    for phase in ("attention", "model", "bookkeeping before the model", "sampling"):
        assert all(float(cell.strip(" |")) > 0 for cell in rows[phase]), phase
    for phase in ("scores", "eviction", "compaction", "sentences"):
        assert float(rows[phase][1].strip(" |")) > 0, phase
    assert rows["scores"][0] == "-"
