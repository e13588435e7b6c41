"""Grading, on answers in many forms and on every known answer of the three data sets."""

import sys
import threading

import pytest

from skipkv.errors import MissingExtraError
from skipkv.evaluation import grade, load_dataset
from skipkv.evaluation.answers import final_answer
from skipkv.evaluation.grading import equal


@pytest.mark.parametrize(
    ("answer", "gold", "right"),
    [
        ("47", "47", True),
        ("47.0", "47", True),
        ("48", "47", False),
        ("2,125", "2125", True),
        (r"\$18", "18", True),
        (r"\frac{1}{2}", r"\dfrac12", True),
        ("0.5", r"\frac{1}{2}", True),
        (r"\frac{1}{3}", r"\frac{1}{2}", False),
        ("5", "x=5", True),
        (r"\text{odd}", r"\text{even}", False),
        (r"\text{Evelyn}", "Evelyn", True),
        ("(3, 4)", "(4, 3)", False),
        ("7, 5, 3", "3, 5, 7", True),
        ("[3,4]", "(3,4]", False),
        (r"\sqrt{", r"\sqrt{2}", False),
        ("5.", "5", True),
        ("0.5.", "1/2", True),
        (r"1\,000", "1000", True),
        ("12\u202f345\\;678", "12345678", True),
        (r"1\,00", "100", False),
        ("1.5e3", "1500", True),
        ("-2E-3", "-0.002", True),
        ("1e999", "1", False),
        ("2e", "2e", True),
        ("½", r"\frac12", True),
        ("3¼", "3.25", True),
        ("½", r"\frac13", False),
        ("1 1/2", "1.5", True),
        ("1 1/2", "0.5", False),
        ("1 000", "1000", True),
        ("1 2", "12", False),
        ("90\u00b0", "90", True),
        ("5\u00b2", "25", True),
        ("\uff15", "5", True),
        ("0,1", "1", False),
        ("3, 5", "(3,5)", True),
        ("3, 5", "5", False),
        ("", "1", False),
        (None, "1", False),
        ("1" * 5000, "1", False),
    ],
)
def test_an_answer_is_right_in_any_form_that_means_the_same(answer, gold, right):
    assert grade(answer, gold) is right


def test_an_answer_that_takes_for_ever_to_work_out_is_wrong():
    assert grade("9^{9^{9^{9}}}+1", "9^{9^{9^{9}}}+2") is False


@pytest.mark.slow
def test_grading_works_outside_the_main_thread():
    found = []
    threads = [
        threading.Thread(target=lambda pair=pair: found.append(grade(*pair)))
        for pair in [(r"\frac{2}{4}", "0.5"), ("0.6", "0.5")]
    ]
    for thread in threads:
        thread.start()
        thread.join()
    assert found == [True, False]


def test_the_extra_is_named_where_it_is_missing(monkeypatch):
    monkeypatch.setitem(sys.modules, "math_verify", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'skipkv\[eval\]'"):
        grade("0.5", r"\frac{1}{2}")


@pytest.mark.parametrize(
    ("name", "file"),
    [
        ("gsm8k", "gsm8k_test.jsonl"),
        pytest.param("math500", "math500.jsonl", marks=pytest.mark.slow),
        ("aime24", "aime24.jsonl"),
    ],
)
def test_every_known_answer_is_right_and_another_problems_is_wrong(name, file, full_file):
    problems = load_dataset(f"{name}={full_file(file)}").problems
    golds = list(dict.fromkeys(problem.answer for problem in problems))
    assert len(golds) > 20
    alike = []
    for gold, other in zip(golds, [*golds[7:], *golds[:7]], strict=True):
        said = f"<think>First \\boxed{{0}}.</think>\n\nSo it is $\\boxed{{ {gold}}}$. Done."
        assert final_answer(said) == gold
        assert equal(gold, gold), gold  # math-verify's judgement, not the shortcut of `grade`
        if grade(other, gold):
            alike.append((other, gold))
    # of MATH-500's answers a few mean the same, such as "36" and "36^\\circ"
    assert len(alike) <= (3 if name == "math500" else 0), alike


def test_an_answer_of_more_than_a_thousand_characters_is_not_compared():
    assert grade("+".join("1" * 500), "500")
    assert not grade("+".join("1" * 501), "501")  # 1001 characters
