"""Batches whose padding is stored, as one budget less per row."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from skipkv import Engine, Policy, presets
from skipkv.errors import ConfigError
from skipkv.evaluation import decode_with_stored_padding, stored_padding
from skipkv.schedulers import LengthGrouped, padding_tokens
from skipkv.testing import toy_model, toy_tokenizer

lengths = st.lists(st.integers(1, 30), max_size=12)
modest = settings(max_examples=50, deadline=None)
PROMPTS = [[4, 5, 6, 7, 8, 9], [4, 5], [9, 8, 7], [6, 5, 4, 9, 8, 7], [5]]


def rkv(budget: int) -> Policy:
    return presets.rkv(budget, interval=8)


def padding_by_loop(lengths: list[int], batch_size: int) -> list[int]:
    padding = []
    for index, length in enumerate(lengths):
        first = index - index % batch_size
        longest = 0
        for other in range(first, min(first + batch_size, len(lengths))):
            longest = max(longest, lengths[other])
        padding.append(longest - length)
    return padding


@modest
@given(lengths=lengths, batch_size=st.integers(1, 5))
def test_a_prompt_is_padded_to_the_longest_of_those_it_came_with(
    lengths: list[int], batch_size: int
) -> None:
    found = stored_padding(lengths, batch_size=batch_size)
    assert found == padding_by_loop(lengths, batch_size)
    assert sum(found) == padding_tokens(lengths, batch_size=batch_size)


@modest
@given(lengths=lengths, batch_size=st.integers(1, 5))
def test_grouped_by_length_a_prompt_is_padded_to_the_longest_of_its_neighbours_in_length(
    lengths: list[int], batch_size: int
) -> None:
    order = sorted(range(len(lengths)), key=lambda i: (lengths[i], i))
    padding = padding_by_loop([lengths[i] for i in order], batch_size)
    grouped = LengthGrouped(batch_size=batch_size)
    found = stored_padding(lengths, batch_size=batch_size, scheduler=grouped)
    assert found == [padding[order.index(i)] for i in range(len(lengths))]


@pytest.fixture(scope="module")
def model() -> PreTrainedModel:
    return toy_model()


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerFast:
    return toy_tokenizer()


def test_every_row_gives_what_it_gives_alone_under_the_budget_its_padding_leaves(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast
) -> None:
    padding = stored_padding([len(p) for p in PROMPTS], batch_size=3)
    assert padding == [0, 4, 3, 0, 5]
    found = decode_with_stored_padding(
        model, tokenizer, rkv, PROMPTS, budget=24, padding=padding, max_new_tokens=60, batch_size=2
    )
    for index, (completion, prompt, stored) in enumerate(zip(found, PROMPTS, padding, strict=True)):
        engine = Engine(model, tokenizer, rkv(24 - stored), batch_size=1)
        [alone] = engine.generate([prompt], max_new_tokens=60)
        assert completion.tokens == alone.tokens
        assert completion.stats.peak_entries == alone.stats.peak_entries == 24 - stored + 8
        assert completion.index == index


def test_padding_that_leaves_too_little_of_the_budget_is_refused(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast
) -> None:
    with pytest.raises(ConfigError, match=r"Padding of 20 tokens leaves 4 of a budget of 24: Budg"):
        decode_with_stored_padding(
            model, tokenizer, rkv, [[4]], budget=24, padding=[20], max_new_tokens=4
        )


def test_a_number_per_prompt_is_wanted(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast
) -> None:
    with pytest.raises(ConfigError, match="each of the 2 prompts"):
        decode_with_stored_padding(
            model, tokenizer, rkv, [[4], [5]], budget=24, padding=[0], max_new_tokens=4
        )
    with pytest.raises(ConfigError, match=r"batch_size=0"):
        stored_padding([1], batch_size=0)
