"""The problems of each embedded reasoner, by its name."""

from skipkv.tiny import rambler
from skipkv.tiny.problem import TEST, Problem, problems

_PROBLEMS = {"tiny": problems, "rambler": rambler.problems}


def problems_of(name: str, count: int, *, seed: int = 0, split: str = TEST) -> list[Problem]:
    """Problems that an embedded reasoner can solve; the same seed gives the same problems.

    Args:
        name: "tiny" or "rambler".
        count: number of problems.
        seed: any number.
        split: "test" or "train".

    Example:
        >>> from skipkv import tiny
        >>> tiny.problems_of("tiny", 2) == tiny.problems(2)
        True
    """
    return _PROBLEMS[name](count, seed=seed, split=split)
