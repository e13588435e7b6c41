"""The text of single tokens, against the text of the whole."""

from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from small_tokenizers import byte_level, sentencepiece

from skipkv.runtime.text.token_text import Decoder, TokenText
from skipkv.testing import toy_tokenizer
from skipkv.testing.fakes import VOCABULARY

TOY = toy_tokenizer()


@settings(max_examples=80, deadline=None)
@given(ids=st.lists(st.integers(0, len(VOCABULARY) - 1), max_size=20))
def test_pieces_join_to_the_text_of_the_whole_with_special_tokens_shown(ids: list[int]) -> None:
    assert "".join(TokenText(TOY).pieces(ids)) == TOY.decode(ids, skip_special_tokens=False)


@settings(max_examples=60, deadline=None)
@given(ids=st.lists(st.integers(1, 7), min_size=1, max_size=10))
def test_a_word_s_space_is_part_of_its_piece(ids: list[int]) -> None:
    tokenizer = sentencepiece()
    joined = "".join(TokenText(tokenizer).pieces(ids))
    whole = tokenizer.decode(ids)
    assert joined.removeprefix(" ") == whole


def test_pieces_of_a_tokenizer_that_marks_word_starts() -> None:
    text = TokenText(sentencepiece())
    assert text.pieces([1, 2, 3, 4, 5, 6]) == [" so", " x", "x", " ", ".", "\n"]


@settings(max_examples=60, deadline=None)
@given(string=st.text(st.characters(max_codepoint=127), max_size=20))
def test_pieces_of_single_bytes_join_to_ascii_text(string: str) -> None:
    tokenizer = byte_level()
    ids = tokenizer(string)["input_ids"]
    assert "".join(TokenText(tokenizer).pieces(ids)) == string


def test_a_byte_that_is_no_text_alone_is_a_replacement_character() -> None:
    tokenizer = byte_level()
    ids = tokenizer("é\n")["input_ids"]
    assert TokenText(tokenizer).pieces(ids) == ["\ufffd", "\ufffd", "\n"]


def test_ids_beyond_the_tokenizer_have_no_text() -> None:
    """Models round their vocabulary up."""
    assert TokenText(TOY)[len(VOCABULARY) + 3] == ""


class Counting:
    """A tokenizer that counts what it is asked."""

    def __init__(self) -> None:
        self.calls: list[list[int]] = []

    def decode(self, token_ids: Sequence[int], **kwargs: Any) -> str:
        self.calls.append(list(token_ids))
        return "".join(f"<{i}>" for i in token_ids)


def test_each_token_is_looked_up_once() -> None:
    tokenizer = Counting()
    text = TokenText(tokenizer)
    assert text.pieces([4, 2, 4, 4]) == ["<4>", "<2>", "<4>", "<4>"]
    asked = len(tokenizer.calls)
    assert text.pieces([2, 4]) == ["<2>", "<4>"]
    assert len(tokenizer.calls) == asked
    assert {i for call in tokenizer.calls for i in call} == {2, 4}


@pytest.mark.parametrize("tokenizer", [TOY, Counting()], ids=["toy", "counting"])
def test_whatever_decodes_is_a_decoder(tokenizer: Any) -> None:
    assert isinstance(tokenizer, Decoder)
