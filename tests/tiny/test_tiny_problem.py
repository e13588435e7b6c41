"""The problems: well-formed, right by another reckoning, the same for the same seed."""

import random
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from skipkv.tiny import Definition, Problem, problems
from skipkv.tiny.problem import TEST, TRAIN, draw

RNGS = st.integers(0, 10**6).map(random.Random)


def solved_from_text(question: str) -> str:
    """The answer by substituting the question's own text until only digits are left."""
    given_text, asked = question.split(". Start at ")
    definitions = dict(part.split(":") for part in given_text.split("; "))
    names = re.search(r"find (\w) and (\w)\.", asked)

    def value(name: str) -> int:
        spelled = re.sub(r"[a-z]", lambda found: str(value(found[0])), definitions[name])
        return eval(spelled) % 10

    return f"{value(names[1])}{value(names[2])}"


@given(RNGS)
def test_the_answer_is_what_the_question_asks_for(rng):
    problem = draw(rng)
    assert problem.answer == solved_from_text(problem.question)


@given(RNGS)
def test_an_answer_is_a_number_of_two_digits(rng):
    assert 10 <= int(draw(rng).answer) <= 99


@given(RNGS)
def test_a_definition_looks_back_only(rng):
    problem = draw(rng)
    seen: set[str] = set()
    for name, definition in problem.definitions.items():
        assert {t for t in (definition.left, definition.right) if t.isalpha()} <= seen
        seen.add(name)


@given(RNGS)
def test_the_question_starts_at_the_only_name_that_needs_no_other(rng):
    problem = draw(rng)
    plain = [name for name, d in problem.definitions.items() if d.left.isdigit()]
    assert f"Start at {plain[0]}," in problem.question
    assert len(plain) == 1


def test_the_same_seed_gives_the_same_problems():
    assert problems(5, seed=3) == problems(5, seed=3)
    assert problems(5, seed=3) != problems(5, seed=4)


def test_fewer_problems_are_the_first_of_more():
    assert problems(9, seed=1)[:4] == problems(4, seed=1)


def test_test_problems_are_not_training_problems():
    train = {problem.question for problem in problems(2000, split=TRAIN)}
    test = {problem.question for problem in problems(2000, split=TEST)}
    assert len(train) == len(test) == 2000
    assert not train & test


def test_sums_are_taken_modulo_ten():
    problem = Problem(
        definitions={
            "a": Definition("7"),
            "b": Definition("a", "+", "5"),
            "c": Definition("b", "-", "a"),
        },
        listed="cab",
        asked=("b", "c"),
    )
    assert problem.values == {"a": 7, "b": 2, "c": 5}
    assert problem.answer == "25"


@pytest.mark.parametrize("lengths", [(2, 2), (3, 5), (26, 26)])
def test_a_chain_has_the_length_asked_for(lengths):
    least, most = lengths
    for seed in range(20):
        drawn = draw(random.Random(seed), least=least, most=most)
        assert least <= len(drawn.definitions) <= most
