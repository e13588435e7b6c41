"""Whether a sentence restates another: sentences of both embedded models, and other prose."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from skipkv.calibration import restates

STEP = "l:g+d. g=6, d=8, 6+8=4, so l=4."
TOLD = (
    "Next I see in the question that r:p-q, and from what I did before I know quite well that p=6 "
    "and q=5, which taken all in all and modulo ten gives me r=1."
)


@pytest.mark.parametrize(
    ("earlier", "later"),
    [
        (STEP, f"Wait, {STEP}"),
        (f"Wait, {STEP}", f"Hmm, check l again: {STEP}"),
        ("Wait, let me double-check: 6+8=4, so l=4.", STEP),
        (TOLD, TOLD.replace("Next I see in the question that", "Hmm, let me verify this one,")),
        ("So x = 5.", "Therefore x=5!"),
        ("Natalia sold 1,000 clips in April.", "Wait: in April Natalia sold 1000 clips."),
        ("Thus $x^2 = 4$ holds.", "so x^2=4 holds"),
        ("The root 3 is not prime.", "Again, the root 3 isn't prime."),
    ],
)
def test_the_same_facts_in_mostly_the_same_words_are_restated(earlier: str, later: str) -> None:
    assert restates(earlier, later) is True


@pytest.mark.parametrize(
    ("earlier", "later"),
    [
        (STEP, STEP.replace("l", "m")),
        (STEP, STEP.replace("=4", "=5")),
        (STEP, "Wait, let me double-check: 6+8=4, so l=4."),  # g=6 stands in the earlier one only
        ("n=7 and o=9 are known.", "n=9 and o=7 are known."),
        (TOLD, TOLD.replace("r=1", "r=2")),
        ("There Ann has 3 apples.", "There Ben has 3 apples."),
        ("It costs 5 - 3 coins.", "It costs 5 + 3 coins."),
        ("The number 7 is prime.", "The number 7 is not prime."),
        ("The number 7 isn\u2019t prime.", "The number 7 is prime."),
    ],
)
def test_a_fact_that_is_missing_or_denied_is_not_restated(earlier: str, later: str) -> None:
    assert restates(earlier, later) is False


@pytest.mark.parametrize(
    ("earlier", "later"),
    [
        ("Good, that is just what I had, so I can move on.", "Yes, that is just what I had."),
        ("Let me think about a way that I like.", "Let me think about a way that I like."),
        ("We find 12 apples in the basket.", "Hence the number of all fruits together is 12."),
        ("", ""),
        ("- -- * ...", "7"),
    ],
)
def test_the_text_does_not_tell_without_facts_or_in_other_words(earlier: str, later: str) -> None:
    assert restates(earlier, later) is None


WORDS = st.sampled_from(["apples", "basket", "costs", "sum", "remaining", "divide", "total"])
FACTS = st.sampled_from(["7", "x=3", "b:a+5", "12.5", "n"])


@given(words=st.lists(WORDS), facts=st.lists(FACTS, min_size=1), data=st.data())
def test_markers_and_order_do_not_matter_and_every_fact_does(
    words: list[str], facts: list[str], data: st.DataObject
) -> None:
    said = [*words, *facts]
    again = data.draw(st.permutations(said))
    sentence = " ".join(said)
    assert restates(sentence, f"Wait, {' '.join(again)}.") is True
    lost = data.draw(st.sampled_from(facts))
    assert restates(sentence, " ".join(piece for piece in again if piece != lost)) is False
