"""Sentences that end where their punctuation says so."""

from unittest.mock import Mock

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from nltk.tokenize.punkt import PunktParameters, PunktSentenceTokenizer

from skipkv._types import Thought, TokenStream
from skipkv.errors import ConfigError
from skipkv.segmenters import Punkt, english, punkt


def sentences(text: str, segmenter: Punkt | None = None) -> list[str]:
    """The closed sentences of `text`, a character a token, without the spaces around them."""
    stream = TokenStream.from_pieces(list(text))
    found, start = [], 0
    for cut in (segmenter or Punkt()).cut(stream):
        found.append(stream[start : cut.end].text.strip())
        start = cut.end
    return found


# "|" marks where a sentence ends; the last one is open
@pytest.mark.parametrize(
    "marked",
    [
        "So x is even.| Then y is odd.| So on",
        "Is it?| No!| Then what",
        "Really?!| Yes.| So",
        "we are done.| then we go.| on",
        # numbers
        "It is 3.5 and 0.25 in all.| So on",
        "The price is $3.50.| So on",
        "So x = -2.| Then on",
        "about 7,000.5 units.| So on",
        "the root 2. and so on",
        # enumerations
        "1. Add them.| 2. Divide them.| Then on",
        "**1.** Add them.| Then on",
        "2.1. Add them.| Then on",
        "a) Add them.| b) Divide them.| Then on",
        "iv. Add them.| Then on",
        "### 3. Add them.| Then on",
        # variables and formulas
        "which is x_1.| Then on",
        "the unknown is x.| Then y is known.| So on",
        "the unknown is x. and then some",
        "we get $x = 2$.| Then on",
        "we get $x = 2.$| Then on",
        "thus \\frac{1}{2}.| $x$ is half.| So on",
        "the answer is \\boxed{12}.| So on",
        "we get \\(x = 2.\\)| Then on",
        "f(x).| Then on",
        # factorials
        "so 5! = 120 and n! is big and (n-1)! too.| So on",
        "it is 5!| Then on",
        "Is 5! + 3! \\cdot 2! the answer?| So on",
        # abbreviations
        "i.e. the sum, e.g. Euler, cf. Thm. 3, resp. Fig. 2.| So on",
        "By Eq. 3 we get it.| So on",
        "Dr. Smith and Mrs. Jones agree.| So on",
        "at 5 p.m. there were 3.| So on",
        "at 5 p.m.| She left.| So on",
        "a, b, c, etc.| Then on",
        "a, b, c, etc. which is on",
        "approx. 3.14 (i.e. pi).| So on",
        # ellipses
        "1, 2, ..., n and so on... and on.| So on",
        "Hmm... so be it.| So on",
        "Hmm...| Wait, no.| So on",
        "Hmm…| Wait, no.| So on",
        "x … y.| So on",
        # quotes and brackets
        'He said "Yes."| Then on',
        "He said “No!”| Then on",
        "(It is even.)| So on",
        "**It is even.**| So on",
        '"Stop."| (He did.)| So on',
        # operators never begin a sentence
        "is it 3? = 4.| So on",
        # lines
        "First\n|Second\n|\nThird",
        "So we sum:\n|- a. b\n|- c\n|d",
        "It is even.\n|\n\nThen on.\n|",
        # LaTeX displays
        "We get\n|\\[\nx = 2. Then\ny = 3\n\\]\n|So on",
        "Thus \\[ x = 2. Then \\] it holds.| So on",
        "$$\na. B\n$$\n|So on",
        "\\begin{align}\na &= b \\\\[2pt]\nc &= d\n\\end{align}\n|So on",
        "We get \\[\nx = 2\n\n|So y.| And on",
        "costs \\$\\$ 3.| So on",
        # scripts and odds
        "Voilà l\u2019été.| Élan vital",
        "see https://a.b/c.d?e=f now.| So on",
    ],
)
def test_reasoning_traces_are_cut_where_a_reader_would(marked: str) -> None:
    closed, text = marked.split("|")[:-1], marked.replace("|", "")
    assert sentences(text + " ") == [sentence.strip() for sentence in closed]


def test_the_token_with_the_last_character_closes_the_sentence() -> None:
    stream = TokenStream.from_pieces(["Done", '."', "", " So", " on"])
    assert [cut.end for cut in Punkt().cut(stream)] == [2]


def test_a_token_over_two_sentences_belongs_to_the_first() -> None:
    stream = TokenStream.from_pieces(["Done", ". Wai", "t a bit. ", "Go ", "on"])
    cuts = Punkt().cut(stream)
    assert [cut.end for cut in cuts] == [2, 3]
    assert [cut.thought for cut in cuts] == [Thought.EXECUTION, Thought.EXECUTION]


def test_a_token_over_three_sentences_closes_one_with_the_first() -> None:
    stream = TokenStream.from_pieces(["So", " it is. No. Wait. ", "Then we ", "go. ", "On "])
    assert [cut.end for cut in Punkt().cut(stream)] == [2, 4]


def test_a_sentence_waits_until_the_word_behind_it_is_complete() -> None:
    for pieces in (["x y."], ["x y.", " "], ["x y.", " The"]):
        assert Punkt().cut(TokenStream.from_pieces(pieces)) == []
    assert len(Punkt().cut(TokenStream.from_pieces(["x y.", " The", "n "]))) == 1


def test_a_line_end_waits_for_nothing() -> None:
    assert [cut.end for cut in Punkt().cut(TokenStream.from_pieces(["x", ".\n\n"]))] == [2]


def test_abbreviations_and_starters_can_be_exchanged() -> None:
    german = Punkt(abbreviations=["bzw.", "Z.B"], starters=["dann"])
    assert german.abbreviations == {"bzw", "z.b"}
    assert sentences("a bzw. B ist z.B. C. Also gut", german) == ["a bzw. B ist z.B. C."]
    assert sentences("a bzw. Dann gut", german) == ["a bzw."]
    assert sentences("See Thm. 3 here", german) == ["See Thm."]


def test_a_single_letter_may_be_an_abbreviation() -> None:
    assert sentences("on p. 5 of it", Punkt()) == ["on p."]
    assert sentences("on p. 5 of it", Punkt(abbreviations=["p"])) == []


@pytest.mark.parametrize("word", ["et al", "", "."])
def test_an_abbreviation_that_cannot_match_is_refused(word: str) -> None:
    with pytest.raises(ConfigError, match=r"Punkt\(abbreviations=\.\.\.\) must hold single words"):
        Punkt(abbreviations=[word])
    with pytest.raises(ConfigError, match=r"Punkt\(starters"):
        Punkt(starters=[word])


def test_the_default_repr_is_short() -> None:
    assert repr(Punkt()) == "Punkt()"
    assert repr(Punkt(starters=["so", "Now"])) == "Punkt(starters=['now', 'so'])"


PLAIN = [
    "so",
    "Then",
    "Done.",
    "done.",
    "etc.",
    "i.e.",
    "Really?",
    '"Yes."',
    "(no)",
    "well...",
    "Dr.",
]


@settings(max_examples=100, deadline=None)
@given(words=st.lists(st.sampled_from(PLAIN), min_size=1, max_size=12))
def test_between_plain_words_it_cuts_where_nltk_does(words: list[str]) -> None:
    parameters = PunktParameters()
    parameters.abbrev_types = set(english.ABBREVIATIONS)
    parameters.sent_starters = set(english.SENTENCE_STARTERS)
    text = " ".join(words)
    whole = PunktSentenceTokenizer(parameters).tokenize(text)
    # the last is open, and the word behind it must be complete
    assert sentences(text + " ") == whole[:-1]


def test_every_mark_is_judged_once_however_long_the_stream(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    judge = Mock()
    judge.text_contains_sentbreak.side_effect = lambda text: text.startswith("end.")
    monkeypatch.setattr(punkt, "_punkt", lambda *lists: judge)
    for length in (50, 500):
        judge.reset_mock()
        pieces = ["not.", " so", " end.", " Then "] * length
        assert len(Punkt().cut(TokenStream.from_pieces(pieces))) == length
        assert judge.text_contains_sentbreak.call_count == 2 * length


def test_a_word_without_end_is_looked_at_once() -> None:
    """A search that is quadratic in the length of a word would take minutes here."""
    text = "." * 30_000 + "a" * 300_000
    assert Punkt().cut(TokenStream.from_pieces([text, " B "])) == []
