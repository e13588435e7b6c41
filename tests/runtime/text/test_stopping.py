"""Stop strings are found in the decoded text, however it is cut into tokens."""

import random
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from small_tokenizers import TOKENIZERS, byte_level
from transformers import StopStringCriteria

from skipkv.runtime.text.stopping import StopFinder, before
from skipkv.testing import toy_tokenizer

BYTES = byte_level()
SAID = ["四", "🎉", "∎", "слово", " два", "the", ".\n\n", "é", "x", "€"]


@pytest.fixture(scope="module", params=TOKENIZERS)
def any_tokenizer(request: pytest.FixtureRequest) -> Any:
    return TOKENIZERS[request.param]()


def found_by_decoding_all(
    tokenizer: Any, ids: list[int], stop: list[str]
) -> tuple[int, str] | None:
    """How many tokens it takes until a stop string is in their text, and the first one in it."""
    for count in range(1, len(ids) + 1):
        text = tokenizer.decode(ids[:count], skip_special_tokens=False)
        found = {text.index(s): s for s in stop if s in text}
        if found:
            return count, found[min(found)]
    return None


def found_by_the_finder(tokenizer: Any, ids: list[int], stop: list[str]) -> tuple[int, str] | None:
    finder = StopFinder(tokenizer, stop)
    for count, token in enumerate(ids, start=1):
        if (string := finder.feed(token)) is not None:
            return count, string
    return None


@settings(max_examples=80, deadline=None)
@given(
    words=st.lists(st.sampled_from(SAID), max_size=60),
    noise=st.lists(st.integers(0, 255), max_size=3),
    stop=st.lists(st.sampled_from([*SAID, "四🎉", "∎ два", "never said"]), min_size=1, max_size=3),
)
def test_characters_that_span_tokens_are_found_at_their_last_token(
    words: list[str], noise: list[int], stop: list[str]
) -> None:
    ids = noise + BYTES("".join(words))["input_ids"]
    assert found_by_the_finder(BYTES, ids, stop) == found_by_decoding_all(BYTES, ids, stop)


@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_what_is_found_is_what_decoding_all_of_it_finds(
    any_tokenizer: Any, data: st.DataObject
) -> None:
    few = data.draw(st.lists(st.integers(0, len(any_tokenizer) - 1), min_size=1, max_size=6))
    order = random.Random(data.draw(st.integers(0, 99)))
    ids = order.choices(few, k=data.draw(st.integers(1, 300)))
    whole = any_tokenizer.decode(ids, skip_special_tokens=False)
    at = data.draw(st.integers(0, len(whole)))
    stop = ["never said", whole[at : at + data.draw(st.integers(1, 40))] or "never"]
    found = found_by_the_finder(any_tokenizer, ids, stop)
    assert found == found_by_decoding_all(any_tokenizer, ids, stop)
    if found is not None:
        count, string = found
        text = any_tokenizer.decode(ids[:count], skip_special_tokens=False)
        silent = any_tokenizer.decode(ids[:count], skip_special_tokens=True)
        if text == silent:
            assert before(any_tokenizer, ids[:count], string) == text[: text.index(string)]


def test_strings_are_found_where_transformers_finds_them() -> None:
    stop = ["四", "🎉", "∎", "два"]
    try:
        criteria = StopStringCriteria(BYTES, stop)
    except ValueError as reason:
        pytest.skip(f"this version of transformers cannot find them: {reason}")
    for string in stop:
        ids = BYTES(f"x и{string}")["input_ids"]
        counts = range(1, len(ids) + 1)
        theirs = next(n for n in counts if criteria(torch.tensor([ids[:n]]), None)[0])
        assert found_by_the_finder(BYTES, ids, stop) == (theirs, string)


@pytest.mark.parametrize(
    ("stop", "text"),
    [
        ("</think>", "so two"),
        ("two</think>", "so "),
        ("wo</think>", "so t"),
        ("/think>", "so two"),
    ],
)
def test_a_special_token_is_found_and_is_in_no_text(stop: str, text: str) -> None:
    tokenizer = toy_tokenizer()
    ids = tokenizer.convert_tokens_to_ids(["<think>", "so", " ", "two", "</think>"])
    assert found_by_the_finder(tokenizer, ids, [stop]) == (5, stop)
    assert before(tokenizer, ids, stop) == text
