"""Stretches of tokens, and cuts in them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from skipkv._types import Cut, Thought, TokenStream
from skipkv.errors import ConfigError


@given(pieces=st.lists(st.text(max_size=3), max_size=8), at=st.integers(0, 8))
def test_a_stream_cut_in_two_is_the_stream(pieces: list[str], at: int) -> None:
    stream = TokenStream(ids=range(100, 100 + len(pieces)), pieces=pieces)
    head, tail = stream[:at], stream[at:]
    assert head.text + tail.text == stream.text == "".join(pieces)
    assert [*head.ids, *tail.ids] == list(stream.ids)
    assert len(head) + len(tail) == len(stream)


def test_a_stream_of_pieces_has_an_id_for_each() -> None:
    stream = TokenStream.from_pieces(["a", "", "b"])
    assert stream == TokenStream(ids=[0, 1, 2], pieces=("a", "", "b"))
    assert stream.text == "ab"


def test_every_token_needs_its_text() -> None:
    with pytest.raises(ConfigError, match=r"one text per token id \(2\), got 1"):
        TokenStream(ids=[1, 2], pieces=["a"])


def test_a_stream_does_not_change_with_the_lists_it_was_built_from() -> None:
    ids, pieces = [1], ["a"]
    stream = TokenStream(ids=ids, pieces=pieces)
    ids.append(2)
    pieces.append("b")
    assert len(stream) == 1


def test_a_cut_names_its_thought_and_is_execution_unless_said_otherwise() -> None:
    assert Cut(3).thought is Thought.EXECUTION
    assert Cut(3, 2).thought is Thought.TRANSITION  # type: ignore[arg-type]
    assert Cut(3, Thought.REFLECTION) == Cut(3, Thought(1))


@pytest.mark.parametrize(("end", "thought"), [(0, 0), (-1, 0), (1.0, 0), (1, 3)])
def test_a_cut_before_the_first_token_or_of_an_unknown_thought_is_refused(
    end: object, thought: object
) -> None:
    with pytest.raises((ValueError, TypeError)):
        Cut(end, thought)  # type: ignore[arg-type]
