"""What a wrong trace of the rambling reasoner dies of."""

import pytest
from rambler_errors import kind_of

from skipkv.tiny import Definition, Problem

PROBLEM = Problem(
    definitions={
        "a": Definition(left="3"),
        "b": Definition(left="a", operator="+", right="4"),
        "c": Definition(left="b", operator="-", right="a"),
    },
    listed="abc",
    asked=("b", "c"),
)


@pytest.mark.parametrize(
    ("thoughts", "answer", "kind"),
    [
        (["a:3 so a=3", "b:a+4 with a=3 so b=7", "c:b-a with b=7 and a=3 so c=4"], "74", "right"),
        (["a:3 so a=3", "b:a+4 with a=3 so b=8", "c:b-a with b=8 and a=3 so c=5"], "85", "slip"),
        (["a:3 so a=3", "b:a+4 with a=2 so b=6", "c:b-a with b=6 and a=3 so c=3"], "63", "value"),
        (["a:3 so a=3", "b:a+4 with c=1 so b=5", "c:b-a with b=5 and a=3 so c=2"], "52", "value"),
        (["a:3 so a=3", "b:a+4 so b=5", "c:b-a with b=5 and a=3 so c=2"], "52", "value"),
        (
            ["a:3 so a=3", "b:a+5 with a=3 so b=8", "c:b-a with b=8 and a=3 so c=5"],
            "85",
            "definition",
        ),
        (["a:3 so a=3", "b:a+4 with a=3 so b=7"], "79", "never told"),
        (["a:3 so a=3", "b:a+4 with a=3 so b=7", "c:b-a with b=7 and a=3 so c=4"], "75", "answer"),
        (["a:3 so a=3"], None, "no end"),
    ],
)
def test_the_first_fault_that_matters_is_named(
    thoughts: list[str], answer: str | None, kind: str
) -> None:
    ended = "" if answer is None else f"</think>\n\nThe code is \\boxed{{{answer}}}."
    assert kind_of(PROBLEM, ".\n\n".join(thoughts) + ended) == kind
