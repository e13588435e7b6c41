"""Sentences that end at tokens of a table."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from skipkv._types import Thought, TokenStream
from skipkv.errors import ConfigError
from skipkv.segmenters import PUBLISHED_DELIMITERS, Delimiter, MarkerWords, Newline
from skipkv.testing.streams import token_streams

# byte-level BPE writes a newline as Ċ and a space as Ġ
BYTE_LEVEL = ["Ċ", ".Ċ", ")Ċ", "ĊĊ", ".ĊĊ", ")ĊĊ", "?ĊĊ", ":Ċ", "x", "ĠSo", "ĊĠĠ", ".", "<eos>"]


class FakeTokenizer:
    """A byte-level vocabulary; ids are given out backwards, so that they are not places in it."""

    def __init__(self, names: list[str]) -> None:
        self.names = names

    def get_vocab(self) -> dict[str, int]:
        return {name: len(self.names) - place for place, name in enumerate(self.names)}

    def decode(self, token_ids: list[int]) -> str:
        names = [self.names[len(self.names) - i] for i in token_ids]
        return "".join(names).replace("Ċ", "\n").replace("Ġ", " ")


def ids_of(tokenizer: FakeTokenizer, *names: str) -> frozenset[int]:
    return frozenset(tokenizer.get_vocab()[name] for name in names)


@settings(max_examples=100, deadline=None)
@given(stream=token_streams(), ids=st.frozensets(st.integers(0, 11), min_size=1))
def test_a_sentence_ends_behind_every_token_of_the_table(
    stream: TokenStream, ids: frozenset[int]
) -> None:
    ends = []
    for index in range(len(stream)):
        if stream.ids[index] in ids:
            ends.append(index + 1)
    assert [cut.end for cut in Delimiter(ids=ids).cut(stream)] == ends


def test_from_a_tokenizer_all_tokens_that_end_a_line_are_taken() -> None:
    tokenizer = FakeTokenizer(BYTE_LEVEL)
    assert Delimiter.from_tokenizer(tokenizer).ids == ids_of(tokenizer, *BYTE_LEVEL[:8])


@settings(max_examples=50, deadline=None)
@given(places=st.lists(st.integers(0, len(BYTE_LEVEL) - 1)))
def test_from_a_tokenizer_it_cuts_where_newline_cuts(places: list[int]) -> None:
    tokenizer = FakeTokenizer(BYTE_LEVEL)
    ids = [tokenizer.get_vocab()[BYTE_LEVEL[place]] for place in places]
    stream = TokenStream(ids=ids, pieces=[tokenizer.decode([i]) for i in ids])
    assert Delimiter.from_tokenizer(tokenizer).cut(stream) == Newline().cut(stream)


def test_the_published_list_is_taken_when_it_is_asked_for() -> None:
    tokenizer = FakeTokenizer(BYTE_LEVEL)
    delimiter = Delimiter.from_tokenizer(tokenizer, PUBLISHED_DELIMITERS)
    assert delimiter.ids == ids_of(tokenizer, *BYTE_LEVEL[:7])


def test_a_lone_string_is_one_delimiter() -> None:
    tokenizer = FakeTokenizer(BYTE_LEVEL)
    assert Delimiter.from_tokenizer(tokenizer, ".\n").ids == ids_of(tokenizer, ".Ċ")


def test_all_ids_with_the_text_of_a_delimiter_are_taken() -> None:
    tokenizer = FakeTokenizer(["Ċ", "\n", "x"])
    assert len(Delimiter.from_tokenizer(tokenizer, ["\n"]).ids) == 2


def test_a_text_that_is_not_one_token_is_refused_by_name() -> None:
    with pytest.raises(ConfigError, match=r"FakeTokenizer has none for \['!\\n', '\?\\n'\]"):
        Delimiter.from_tokenizer(FakeTokenizer(BYTE_LEVEL), ["\n", "?\n", "!\n"])


def test_a_vocabulary_without_line_ends_is_refused() -> None:
    with pytest.raises(ConfigError, match="no token that ends a line among the 2"):
        Delimiter.from_tokenizer(FakeTokenizer(["a", "Ċb"]))


def test_an_empty_list_of_delimiters_is_refused() -> None:
    with pytest.raises(ConfigError, match="at least one token id"):
        Delimiter.from_tokenizer(FakeTokenizer(BYTE_LEVEL), [])


@pytest.mark.parametrize("ids", [(), [-1], ["\n"], [1.0], [True]])
def test_a_table_without_token_ids_is_refused(ids: object) -> None:
    with pytest.raises(ConfigError, match=r"Delimiter\(ids=\.\.\.\) must hold"):
        Delimiter(ids=ids)  # type: ignore[arg-type]


def test_the_classifier_is_passed_on() -> None:
    tokenizer = FakeTokenizer(BYTE_LEVEL)
    delimiter = Delimiter.from_tokenizer(tokenizer, classify=lambda text: Thought.TRANSITION)
    stream = TokenStream(ids=ids_of(tokenizer, "Ċ"), pieces=["\n"])
    assert delimiter.cut(stream)[0].thought is Thought.TRANSITION


def test_a_small_table_can_be_pasted_back_and_a_large_one_does_not_pretend_to() -> None:
    small = Delimiter(ids=range(16), classify=MarkerWords(reflection=["hm"]))
    assert eval(repr(small)) == small
    large = Delimiter(ids=range(412))
    assert repr(large) == "<Delimiter of 412 token ids>"
