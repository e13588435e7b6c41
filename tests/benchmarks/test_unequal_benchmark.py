"""The benchmark of prompts of different lengths measures what it says."""

import pytest
import unequal

from skipkv.runtime.results.timing import Timings


def test_it_prints_a_row_for_each_policy(capsys: pytest.CaptureFixture[str]) -> None:
    unequal.main(
        policies="streaming_llm,skipkv",
        batch_size=3,
        budget=16,
        interval=4,
        longest=20,
        apart=3,
        new_tokens=9,
        rounds=2,
        threads=1,
    )
    out = capsys.readouterr().out
    assert "prompts of 20 tokens beside prompts of 20 to 14, 9 new tokens" in out
    rows = [line.split(" | ") for line in out.splitlines() if line.startswith("| s")]
    assert [row[0] for row in rows] == ["| streaming_llm", "| skipkv"]
    assert all(float(cell.strip(" |")) > 0 for row in rows for cell in row[1:])


def test_events_are_shared_among_the_steps() -> None:
    class Scripted:
        def generate(
            self, given: object, *, observers: list[Timings], **others: object
        ) -> list[object]:
            [timings] = observers
            timings.steps += [1.0, 2.0, 9.0]
            timings.events += [0.5, 1.0]
            return []

    cost = unequal.cost(Scripted(), ((1,),), 4)  # type: ignore[arg-type]
    assert (cost.step, cost.events, cost.whole) == (2.0, 0.5, 2.5)
