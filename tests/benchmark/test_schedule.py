"""The floor's cache is as long, step by step, as the engine's under a policy."""

import itertools
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from skipkv import Engine, presets
from skipkv.benchmark.schedule import most, widths
from skipkv.runtime.session import Session


@pytest.mark.parametrize(("prompt", "budget", "interval"), [(5, 16, 8), (16, 16, 8), (40, 16, 8)])
def test_the_widths_are_those_of_the_engine(
    prompt: int, budget: int, interval: int, small: tuple[Any, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[int] = []
    original = Session.end

    def spy(session: Session, *args: Any) -> None:
        original(session, *args)
        if not session.in_prompt:
            seen.append(session.store.widths[0])

    monkeypatch.setattr(Session, "end", spy)
    engine = Engine(*small, presets.rkv(budget, window=4, interval=interval), eos_token_ids=[])
    list(engine.generate([list(range(prompt))], max_new_tokens=60))
    assert seen == list(widths(prompt, 59, budget=budget, interval=interval))


@given(st.integers(1, 50), st.integers(1, 99), st.integers(1, 40), st.integers(1, 20))
def test_a_row_never_holds_more_than_budget_and_interval(
    prompt: int, steps: int, budget: int, interval: int
) -> None:
    held = list(widths(prompt, steps, budget=budget, interval=interval))
    assert len(held) == steps
    assert most(prompt, steps, budget=budget, interval=interval) == max(held)
    assert max(held) <= budget + interval
    assert all(b <= a + 1 for a, b in itertools.pairwise(held))


def test_without_a_budget_the_cache_holds_all() -> None:
    assert list(widths(3, 4, budget=None, interval=1)) == [4, 5, 6, 7]
