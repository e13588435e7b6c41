"""First come, first served."""

from hypothesis import given, settings
from hypothesis import strategies as st

from skipkv._types import Request
from skipkv.schedulers import Fifo
from skipkv.testing.streams import request_queues


@settings(max_examples=50, deadline=None)
@given(waiting=request_queues(), free=st.integers(1, 6), running=st.integers(0, 3))
def test_the_first_requests_fill_the_free_slots_whatever_is_running(
    waiting: list[Request], free: int, running: int
) -> None:
    admitted = Fifo().admit(waiting, free=free, running=running)
    assert [waiting[index] for index in admitted] == waiting[:free]
