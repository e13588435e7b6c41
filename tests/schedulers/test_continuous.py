"""Every freed slot is filled at once, in the order asked for."""

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from skipkv._types import Request
from skipkv.errors import ConfigError
from skipkv.schedulers import Continuous
from skipkv.testing.streams import request_queues

modest = settings(max_examples=50, deadline=None)
waits = given(waiting=request_queues(), free=st.integers(1, 6), running=st.integers(0, 3))


@modest
@waits
def test_the_first_requests_fill_the_free_slots_whatever_is_running(
    waiting: list[Request], free: int, running: int
) -> None:
    admitted = Continuous().admit(waiting, free=free, running=running)
    assert [waiting[index] for index in admitted] == waiting[:free]


@modest
@waits
def test_the_shortest_prompts_go_first_where_asked_for_and_of_equal_ones_the_earlier(
    waiting: list[Request], free: int, running: int
) -> None:
    admitted = Continuous(order="shortest_prompt").admit(waiting, free=free, running=running)
    expected = sorted(waiting, key=lambda r: r.prompt_tokens)[:free]  # stable
    assert [waiting[index] for index in admitted] == expected


@pytest.mark.parametrize("order", ["longest", None, ["fifo"]])
def test_an_unknown_order_is_refused(order: Any) -> None:
    with pytest.raises(ConfigError, match=r"Continuous\(order=.*'fifo'.*'shortest_prompt'"):
        Continuous(order=order)
