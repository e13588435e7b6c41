"""Right and wrong samples of one problem are compared, and no others."""

from types import SimpleNamespace

import within_problem


def sample(problem: str, number: int, *, right: bool, ended: bool = True) -> SimpleNamespace:
    reason = "eos" if ended else "length"
    return SimpleNamespace(problem=problem, sample=number, correct=right, stop_reason=reason)


def test_only_problems_with_a_right_and_a_wrong_trace_that_ended_are_compared() -> None:
    records = [
        sample("both", 0, right=False),
        sample("both", 1, right=True),
        sample("both", 2, right=True),
        sample("right", 0, right=True),
        sample("right", 1, right=True),
        sample("cut off", 0, right=True),
        sample("cut off", 1, right=False, ended=False),
    ]
    [(right, wrong)] = within_problem.pairs(records)
    assert [r.sample for r in right] == [1, 2]
    assert [r.sample for r in wrong] == [0]


def test_a_gap_is_the_mean_over_problems_of_wrong_less_right(monkeypatch) -> None:
    values = {("a", 0): 5.0, ("a", 1): 1.0, ("a", 2): 3.0, ("b", 0): 2.0, ("b", 1): 6.0}
    monkeypatch.setattr(
        within_problem,
        "measured",
        lambda records: {
            key: dict.fromkeys(within_problem.COLUMNS, v) for key, v in values.items()
        },
    )
    a = [sample("a", n, right=n > 0) for n in range(3)]
    b = [sample("b", n, right=n > 0) for n in range(2)]
    both = within_problem.pairs([*a, *b])
    mean, low, high = within_problem.gaps(both)["tokens"]
    assert mean == ((5 - 2) + (2 - 6)) / 2
    assert low <= mean <= high
