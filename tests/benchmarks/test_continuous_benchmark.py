"""The benchmark of continuous batching measures what it says."""

from types import SimpleNamespace
from typing import Any

import continuous
import pytest

from skipkv.testing import check_scheduler, toy_model, toy_tokenizer


def test_its_static_batches_are_a_scheduler() -> None:
    check_scheduler(continuous.Static(), examples=20)


def test_the_gap_is_between_decode_steps_with_somebody_waiting(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    times = iter([0.0, 5.0, 6.0, 7.0, 10.0, 30.0, 31.0])
    monkeypatch.setattr(continuous.time, "perf_counter", lambda: next(times))
    gaps = continuous.Gaps()
    passes: list[tuple[int, bool]] = [
        (0, False),  # a prompt, nobody decodes
        (0, True),
        (0, True),
        (2, False),  # a newcomer's prompt behind two that decode
        (0, True),  # 4 behind the step before
        (0, False),  # a prompt when all are done: no gap
        (0, True),
    ]
    for first, decoding in passes:
        forward: Any = SimpleNamespace(first=first, decoding=decoding)
        gaps.passed(forward)
    assert (gaps.steps, gaps.longest) == (4, 5.0)


def test_it_prints_a_row_for_each_way(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    tokenizer = toy_tokenizer()
    tokenizer.chat_template = "{% for m in messages %}{{ m.content }}{% endfor %}"
    monkeypatch.setattr(continuous, "load", lambda name: (toy_model(), tokenizer))
    continuous.main(
        requests=12, slots=3, least=2, most=32, long=190, chunk=99, budget=150, rounds=2
    )
    rows = [line for line in capsys.readouterr().out.splitlines() if line.startswith("| ")]
    assert [row.split(" | ")[0] for row in rows] == [
        "| scheduler",
        "| static batches",
        "| `Continuous()`",
        '| `Continuous(order="shortest_prompt")`',
        "| prompts are fed",
        "| all at once",
        "| in chunks of 99",
    ]
    steps = [int(row.split(" | ")[1]) for row in rows[1:4]]
    assert max(steps[1:]) < steps[0]
    assert "| 1.00 | 1.00 |" in rows[1]
