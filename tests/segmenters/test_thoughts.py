"""Naming thoughts by marker words."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from skipkv._types import Thought
from skipkv.errors import ConfigError
from skipkv.segmenters import MarkerWords, Newline, english
from skipkv.segmenters.thoughts import _pattern

E, R, T = Thought.EXECUTION, Thought.REFLECTION, Thought.TRANSITION


@pytest.mark.parametrize(
    ("text", "thought"),
    [
        ("Wait, x must be even.\n\n", R),
        ("But wait.", R),
        ("That's correct.", R),
        ("That\u2019s correct.", R),
        ("The sum's incorrect!", R),
        ("So let\nme  check it", R),
        ("I should double-check.", R),
        ("Verify it again", R),
        ("Alternatively, use mod 3.", T),
        ("ANOTHER WAY to see it", T),
        ("Alternatively, wait, let me check.", R),
        ("x = 3, so y = 4.", E),
        ("The waiter awaits.", E),
        ("He gained against them.", E),
        ("She's correctly dressed.", E),
        ("verify_all(x)", E),
        ("", E),
    ],
)
def test_english_markers_match_whole_words_in_any_case(text: str, thought: Thought) -> None:
    assert MarkerWords.english()(text) is thought


def test_another_language_needs_only_its_lists() -> None:
    chinese = MarkerWords(reflection=["等等", "检查"], transition=["另一种方法"])
    assert chinese("好的、等等、我算错了。") is R
    assert chinese("我们用另一种方法试试。") is T
    assert chinese("Wait, x = 3") is E


def test_markers_hold_their_punctuation_literally() -> None:
    classify = MarkerWords(reflection=["(?)", "huh?"], transition=["..."])
    assert classify("x = 3 (?) so") is R
    assert classify("Huh?") is R
    assert classify("hu") is E
    assert classify("Hmm...then") is T
    assert classify("abc") is E


def test_empty_lists_make_everything_execution() -> None:
    assert MarkerWords(reflection=[], transition=[])("Wait, alternatively") is E


def test_a_lone_string_is_one_phrase_and_not_letters() -> None:
    assert MarkerWords(reflection="hold on").reflection == ("hold on",)


@pytest.mark.parametrize("phrase", ["", "  ", None, 3])
def test_an_empty_phrase_is_refused(phrase: object) -> None:
    with pytest.raises(ConfigError, match="MarkerWords"):
        MarkerWords(reflection=["wait", phrase])  # type: ignore[list-item]


@pytest.mark.parametrize(
    "words",
    [
        MarkerWords(),
        MarkerWords.english(),
        MarkerWords(reflection=["hm"]),
        MarkerWords(reflection=[], transition=["'s gut"]),
    ],
)
def test_its_repr_can_be_pasted_back(words: MarkerWords) -> None:
    assert eval(repr(words)) == words


def test_the_default_repr_is_short() -> None:
    assert repr(MarkerWords()) == "MarkerWords.english()"
    assert repr(Newline()) == "Newline()"


def test_the_expression_is_compiled_once_for_a_list() -> None:
    assert _pattern(english.REFLECTION) is _pattern(english.REFLECTION)


def test_a_classifier_that_cannot_be_called_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"Newline\(classify"):
        Newline(classify="wait")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match=r"Newline\(classify"):
        Newline(classify=MarkerWords)  # type: ignore[arg-type]


def found_by_loop(text: str, phrase: str) -> bool:
    """`phrase` at some place of `text` with no word character beside it."""
    text, phrase = text.lower(), phrase.lower()
    for at in range(len(text)):
        before, behind = text[:at][-1:], text[at + len(phrase) :][:1]
        if (
            text.startswith(phrase, at)
            and not (before.isalnum() and phrase[0].isalnum())
            and not (behind.isalnum() and phrase[-1].isalnum())
        ):
            return True
    return False


@settings(max_examples=100, deadline=None)
@given(
    text=st.lists(st.sampled_from(["wait", "a", "'s", "x", " ", "-", "Wait", "again", "gain"])).map(
        "".join
    ),
    phrase=st.sampled_from(["wait", "'s", "again", "-x", "a-", "a"]),
)
def test_a_phrase_is_found_where_a_search_by_loop_finds_it(text: str, phrase: str) -> None:
    classify = MarkerWords(reflection=[phrase], transition=[])
    assert (classify(text) is R) == found_by_loop(text, phrase)
