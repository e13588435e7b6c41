"""The laws of the protocol, for every scheduler."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from skipkv._types import Request
from skipkv.schedulers import BatchScheduler, Fifo, LengthGrouped
from skipkv.testing.streams import request_queues

every_scheduler = pytest.mark.parametrize(
    "scheduler", [Fifo(), LengthGrouped(batch_size=1), LengthGrouped(batch_size=3)], ids=repr
)
modest = settings(max_examples=100, deadline=None)


@every_scheduler
@modest
@given(waiting=request_queues(), free=st.integers(1, 6), running=st.integers(0, 3))
def test_it_admits_distinct_waiting_requests_and_no_more_than_are_free(
    scheduler: BatchScheduler, waiting: list[Request], free: int, running: int
) -> None:
    admitted = list(scheduler.admit(waiting, free=free, running=running))
    assert len(set(admitted)) == len(admitted) <= free
    assert all(0 <= index < len(waiting) for index in admitted)
    assert admitted or running


@every_scheduler
@modest
@given(queue=request_queues(), slots=st.integers(1, 5))
def test_every_request_of_a_queue_is_decoded_once(
    scheduler: BatchScheduler, queue: list[Request], slots: int
) -> None:
    waiting, finished = list(queue), []
    running: list[tuple[Request, int]] = []  # with the tokens still to decode
    while waiting or running:
        free = slots - len(running)
        if waiting and free:
            admitted = list(scheduler.admit(waiting, free=free, running=len(running)))
            running += [(waiting[index], waiting[index].max_new_tokens) for index in admitted]
            waiting = [r for index, r in enumerate(waiting) if index not in admitted]
        assert 0 < len(running) <= slots
        running = [(request, left - 1) for request, left in running]
        finished += [request for request, left in running if left == 0]
        running = [(request, left) for request, left in running if left]
    assert sorted(request.index for request in finished) == list(range(len(queue)))


@every_scheduler
def test_it_has_the_shape_of_the_protocol(scheduler: BatchScheduler) -> None:
    assert isinstance(scheduler, BatchScheduler)
    assert eval(repr(scheduler)) == scheduler
