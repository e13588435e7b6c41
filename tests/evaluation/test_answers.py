"""Finding the answer, and the thinking, in what a model wrote."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from skipkv._types import Thought
from skipkv.evaluation.answers import final_answer, thinking
from skipkv.evaluation.thoughts import count_thoughts


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        (r"\boxed{1} and then \boxed{2}.", "2"),
        (r"<think>\boxed{1}</think> It is \boxed{2}.", "2"),
        (r"\boxed{1}</think> It is 2.", None),
        (r"<think> It may be \boxed{1}", None),
        (r"<think>a</think> no <think>b</think> \boxed{3}", "3"),
        (r"\boxed{\frac{1}{2}}<eos>", r"\frac{1}{2}"),
        (r"\boxed { 47 }", "47"),
        (r"\boxed{\{1, 2\}}", r"\{1, 2\}"),
        (r"\boxed{\left\{ x \right.}", r"\left\{ x \right."),
        (r"\boxed{1} cut off: \boxed{\frac{1}{", "1"),
        (r"\boxed{5} as asked, in \boxed{}.", "5"),
        (r"\boxed{ }", None),
        (r"\boxed 5", "5"),
        (r"so $\boxed 1,234.5$.", "1,234.5"),
        (r"\boxed -7.", "-7"),
        (r"\boxed\frac12.", r"\frac12"),
        (r"$\boxed\frac{\sqrt{2}}{2}$", r"\frac{\sqrt{2}}{2}"),
        (r"\boxed\sqrt3, \boxed", r"\sqrt3"),
        (r"\boxed\text{odd}", r"\text{odd}"),
        (r"\boxed{3} is what \boxed holds", "3"),
        (r"\boxed{\boxed{5}}", "5"),
        (r"\boxedtext{5}", None),
        (r"$x = \boxed{3}$ and $y = \boxed{5}$", "3, 5"),
        (r"\boxed{3}, \boxed{5} or \boxed{7}.", "3, 5, 7"),
        (r"\(\boxed{3}\), \(\boxed{5}\)", "3, 5"),
        (r"\boxed{3},\quad \boxed{3}", "3"),
        (r"\boxed{3}. No: \boxed{5}", "5"),
        (r"\boxed{3}" "\n\n" r"\boxed{5}", "5"),
        (r"\boxed{1}, then \boxed{3} and \boxed{5}", "3, 5"),
        ("no box", None),
        ("", None),
    ],
)
def test_the_answer_is_the_last_complete_box_after_the_thinking(text, answer):
    assert final_answer(text) == answer


def test_a_prompt_that_opened_the_thinking_counts_as_its_mark():
    assert final_answer(r"perhaps \boxed{1}", opened=True) is None
    assert final_answer(r"perhaps \boxed{1}</think> \boxed{2}", opened=True) == "2"


@given(st.recursive(st.text("ab ", max_size=3), lambda s: s.map("{{{}}}".format), max_leaves=4))
def test_braces_inside_a_box_stay_in_the_answer(content):
    assert final_answer(f"so \\boxed{{{content}}} }}") == (content.strip() or None)


def test_thinking_is_what_lies_between_the_marks():
    assert thinking("a<think>b</think>c") == "b"
    assert thinking("no marks") == "no marks"


def test_thoughts_are_counted_inside_the_thinking_only():
    text = (
        "<think>So 2+3=5.\n\nWait, let me check.\nAlternatively, use 3+2.\n\n\n --- \nDone."
        "</think>Wait, again \\boxed{5}"
    )
    assert count_thoughts(text) == {
        Thought.EXECUTION: 2,
        Thought.REFLECTION: 1,
        Thought.TRANSITION: 1,
    }
