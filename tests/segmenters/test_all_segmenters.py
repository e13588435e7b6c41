"""What segmenters have in common beyond the laws of their protocol (tests/testing holds those)."""

import pytest
from hypothesis import given, settings

from skipkv._types import TokenStream
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
