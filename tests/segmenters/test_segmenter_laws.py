"""The laws of the protocol, for every segmenter."""

from itertools import pairwise

import attrs
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from skipkv._types import Cut, TokenStream
from skipkv.segmenters import (
    Delimiter,
    FixedLength,
    MarkerWords,
    Newline,
    Punkt,
    Segmenter,
)
from skipkv.testing.streams import token_streams

SEGMENTERS = [
    Newline(),
    Delimiter(ids={3, 7}),
    FixedLength(tokens=5),
    FixedLength(tokens=1),
    Punkt(),
    Punkt(abbreviations=["x", "so"], starters=[]),
]
every_segmenter = pytest.mark.parametrize("segmenter", SEGMENTERS, ids=repr)
modest = settings(max_examples=100, deadline=None)


def fed_in_pieces(segmenter: Segmenter, stream: TokenStream, lengths: list[int]) -> list[Cut]:
    """The cuts when the tokens arrive `lengths` at a time, as the runtime calls a segmenter."""
    cuts: list[Cut] = []
    start = seen = 0
    for length in [*lengths, len(stream)]:
        seen = min(len(stream), seen + length)
        found = segmenter.cut(stream[start:seen])
        cuts += [Cut(start + cut.end, cut.thought) for cut in found]
        start = cuts[-1].end if cuts else 0
    return cuts


@every_segmenter
@modest
@given(stream=token_streams(), lengths=st.lists(st.integers(0, 7), max_size=30))
def test_feeding_in_pieces_gives_the_sentences_of_the_whole(
    segmenter: Segmenter, stream: TokenStream, lengths: list[int]
) -> None:
    assert fed_in_pieces(segmenter, stream, lengths) == list(segmenter.cut(stream))


@every_segmenter
@modest
@given(stream=token_streams(max_tokens=25))
def test_feeding_token_by_token_gives_the_sentences_of_the_whole(
    segmenter: Segmenter, stream: TokenStream
) -> None:
    assert fed_in_pieces(segmenter, stream, [1] * len(stream)) == list(segmenter.cut(stream))


@every_segmenter
@modest
@given(stream=token_streams(), later=token_streams(max_tokens=8))
def test_no_later_token_changes_a_cut(
    segmenter: Segmenter, stream: TokenStream, later: TokenStream
) -> None:
    longer = TokenStream(ids=[*stream.ids, *later.ids], pieces=[*stream.pieces, *later.pieces])
    cuts = list(segmenter.cut(stream))
    assert list(segmenter.cut(longer))[: len(cuts)] == cuts


@every_segmenter
@modest
@given(stream=token_streams())
def test_cuts_increase_strictly_and_lie_inside_the_stream(
    segmenter: Segmenter, stream: TokenStream
) -> None:
    ends = [0, *(cut.end for cut in segmenter.cut(stream))]
    assert all(before < end for before, end in pairwise(ends))
    assert ends[-1] <= len(stream)


@every_segmenter
@modest
@given(stream=token_streams())
def test_the_thought_is_that_of_the_sentences_text(
    segmenter: Segmenter, stream: TokenStream
) -> None:
    start = 0
    for cut in segmenter.cut(stream):
        assert cut.thought is MarkerWords()(stream[start : cut.end].text)
        start = cut.end


@every_segmenter
def test_an_empty_stream_has_no_sentences(segmenter: Segmenter) -> None:
    assert list(segmenter.cut(TokenStream.from_pieces([]))) == []
    assert list(segmenter.cut(TokenStream.from_pieces(["", ""])[:0])) == []


@every_segmenter
def test_it_has_the_shape_of_the_protocol_and_can_be_compared(segmenter: Segmenter) -> None:
    assert isinstance(segmenter, Segmenter)
    assert attrs.evolve(segmenter) == segmenter  # type: ignore[misc]
    assert hash(segmenter) == hash(attrs.evolve(segmenter))  # type: ignore[misc]


@every_segmenter
def test_its_repr_can_be_pasted_back(segmenter: Segmenter) -> None:
    assert eval(repr(segmenter)) == segmenter
