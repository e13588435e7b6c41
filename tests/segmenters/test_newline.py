"""Sentences that end with lines."""

from hypothesis import given, settings

from skipkv._types import Cut, Thought, TokenStream
from skipkv.segmenters import MarkerWords, Newline
from skipkv.testing.streams import token_streams


@settings(max_examples=100, deadline=None)
@given(stream=token_streams())
def test_a_sentence_ends_behind_every_token_that_ends_a_line(stream: TokenStream) -> None:
    ends = []
    for index in range(len(stream)):
        if stream.pieces[index][-1:] == "\n":
            ends.append(index + 1)
    assert [cut.end for cut in Newline().cut(stream)] == ends


def test_a_newline_inside_a_token_ends_nothing() -> None:
    assert Newline().cut(TokenStream.from_pieces(["a\nb", "\n ", "c"])) == []


def test_consecutive_line_ends_make_sentences_of_one_token() -> None:
    stream = TokenStream.from_pieces(["Wait", "\n", "\n"])
    assert Newline().cut(stream) == [Cut(2, Thought.REFLECTION), Cut(3, Thought.EXECUTION)]


def test_the_classifier_may_be_any_function() -> None:
    newline = Newline(classify=lambda text: Thought.TRANSITION if "x" in text else Thought(0))
    cuts = newline.cut(TokenStream.from_pieces(["x\n", "y\n"]))
    assert [cut.thought for cut in cuts] == [Thought.TRANSITION, Thought.EXECUTION]


def test_a_classifier_of_ones_own_shows_in_the_repr() -> None:
    assert repr(Newline(classify=MarkerWords(reflection=["hm"], transition=[]))) == (
        "Newline(classify=MarkerWords(reflection=('hm',), transition=()))"
    )
