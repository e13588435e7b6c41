"""The floor's cache is as long, step by step, as the engine's under a policy."""

import itertools
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from skipkv import Engine, presets
from skipkv.benchmark.schedule import most, widths
from skipkv.runtime.seam.cache import under_way


@pytest.mark.parametrize(("prompt", "budget", "interval"), [(5, 16, 8), (16, 16, 8), (40, 16, 8)])
def test_the_widths_are_those_of_the_engine(
    prompt: int, budget: int, interval: int, small: tuple[Any, Any]
) -> None:
    seen: list[int] = []

    def watch(module: Any, args: Any, output: Any) -> None:
        cache = under_way()
        assert cache is not None
        if cache.forward.decoding:
            seen.append(cache.forward.store.widths[0])

    engine = Engine(*small, presets.rkv(budget, window=4, interval=interval), eos_token_ids=[])
    handle = small[0].register_forward_hook(watch)
    list(engine.generate([list(range(prompt))], max_new_tokens=60))
    handle.remove()
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
