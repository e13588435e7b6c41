"""Padding that a padded runtime would have stored."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from skipkv.errors import ConfigError
from skipkv.schedulers import padding_tokens

modest = settings(max_examples=100, deadline=None)
lengths = st.lists(st.integers(1, 30), max_size=12)


def padding_by_loop(lengths: list[int], batch_size: int) -> int:
    total = 0
    for start in range(0, len(lengths), batch_size):
        longest = 0
        for length in lengths[start : start + batch_size]:
            longest = max(longest, length)
        for length in lengths[start : start + batch_size]:
            total += longest - length
    return total


@modest
@given(lengths=lengths, batch_size=st.integers(1, 5))
def test_every_prompt_is_padded_to_the_longest_of_its_batch(
    lengths: list[int], batch_size: int
) -> None:
    assert padding_tokens(lengths, batch_size=batch_size) == padding_by_loop(lengths, batch_size)


@modest
@given(data=st.data(), batch_size=st.integers(1, 4), batches=st.integers(1, 3))
def test_no_order_needs_less_padding_than_the_sorted_one_where_batches_are_full(
    data: st.DataObject, batch_size: int, batches: int
) -> None:
    size = batch_size * batches
    drawn = data.draw(st.lists(st.integers(1, 30), min_size=size, max_size=size))
    assert padding_tokens(sorted(drawn), batch_size=batch_size) <= padding_tokens(
        drawn, batch_size=batch_size
    )


def test_without_a_batch_size_all_prompts_are_one_batch() -> None:
    assert padding_tokens([3, 7, 5]) == 6
    assert padding_tokens([]) == 0


def test_a_batch_of_one_needs_no_padding() -> None:
    assert padding_tokens([9, 1, 5], batch_size=1) == 0


def test_a_batch_size_below_one_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"padding_tokens\(batch_size=0\)"):
        padding_tokens([1], batch_size=0)
