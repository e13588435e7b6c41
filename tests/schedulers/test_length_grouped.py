"""Static batches of prompts of like length."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from skipkv._types import Request
from skipkv.errors import ConfigError
from skipkv.schedulers import LengthGrouped, padding_tokens
from skipkv.testing.streams import request_queues

modest = settings(max_examples=100, deadline=None)


def queue_of(*lengths: int) -> list[Request]:
    return [
        Request(index=index, prompt=[0] * length, max_new_tokens=1)
        for index, length in enumerate(lengths)
    ]


def batches(queue: list[Request], batch_size: int, slots: int) -> list[list[int]]:
    """The prompt lengths of the batches a queue is decoded in."""
    waiting, found = list(queue), []
    while waiting:
        admitted = LengthGrouped(batch_size=batch_size).admit(waiting, free=slots, running=0)
        found.append([waiting[index].prompt_tokens for index in admitted])
        waiting = [r for index, r in enumerate(waiting) if index not in admitted]
    return found


@modest
@given(waiting=request_queues(), free=st.integers(1, 6), running=st.integers(1, 3))
def test_nothing_starts_while_a_batch_is_running(
    waiting: list[Request], free: int, running: int
) -> None:
    assert not LengthGrouped(batch_size=4).admit(waiting, free=free, running=running)


@modest
@given(
    waiting=request_queues(max_prompt_tokens=4),
    batch_size=st.integers(1, 6),
    free=st.integers(1, 6),
)
def test_no_waiting_prompt_is_shorter_than_one_that_starts(
    waiting: list[Request], batch_size: int, free: int
) -> None:
    admitted = LengthGrouped(batch_size=batch_size).admit(waiting, free=free, running=0)
    assert len(admitted) == min(batch_size, free, len(waiting))
    left = [i for i in range(len(waiting)) if i not in admitted]
    for started in admitted:
        for other in left:
            key = (waiting[started].prompt_tokens, started)
            assert key < (waiting[other].prompt_tokens, other)


def test_the_shortest_go_first_in_order_of_length() -> None:
    assert batches(queue_of(9, 2, 5, 3, 2), batch_size=2, slots=8) == [[2, 2], [3, 5], [9]]


def test_of_equal_prompts_the_earlier_goes_first() -> None:
    assert list(LengthGrouped(batch_size=3).admit(queue_of(4, 4, 4, 4), free=8, running=0)) == [
        0,
        1,
        2,
    ]


def test_free_slots_limit_the_batch() -> None:
    assert batches(queue_of(3, 1, 2), batch_size=10, slots=2) == [[1, 2], [3]]


@modest
@given(queue=request_queues(max_requests=10), batch_size=st.integers(1, 4))
def test_its_batches_are_those_whose_padding_is_computed(
    queue: list[Request], batch_size: int
) -> None:
    found = batches(queue, batch_size, slots=batch_size)
    lengths = sorted(request.prompt_tokens for request in queue)
    assert sum(map(padding_tokens, found)) == padding_tokens(lengths, batch_size=batch_size)


@pytest.mark.parametrize("batch_size", [0, -3, 2.0, "4", True, None])
def test_a_batch_below_one_sequence_is_refused(batch_size: object) -> None:
    with pytest.raises(ConfigError, match=r"LengthGrouped\(batch_size=.*at least 1"):
        LengthGrouped(batch_size=batch_size)  # type: ignore[arg-type]
