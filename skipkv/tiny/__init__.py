r"""The embedded reasoners: chain-of-thought models small enough to come with the package.

`tiny` decodes greedily and hardly errs. `load()` gives the model and its tokenizer, and
`problems(count)` gives problems it can solve. It was made by `python -m skipkv.tiny.training`.
README.md in `weights/` is its model card. `skipkv.tiny.rambler` is the other one: it is sampled,
errs and checks itself. To add one, add its folder to `EMBEDDED` in `models/loading.py` and its
problems below.
"""

from skipkv.tiny import rambler
from skipkv.tiny.embedded import load
from skipkv.tiny.problem import TEST, Definition, Problem, problems

_PROBLEMS = {"tiny": problems, "rambler": rambler.problems}


def problems_of(name: str, count: int, *, seed: int = 0, split: str = TEST) -> list[Problem]:
    """Problems that an embedded reasoner can solve; the same seed gives the same problems.

    Args:
        name: "tiny" or "rambler".
        count: number of problems.
        seed: any number.
        split: "test" or "train".

    Example:
        >>> problems_of("tiny", 2) == problems(2)
        True
    """
    return _PROBLEMS[name](count, seed=seed, split=split)


__all__ = ["Definition", "Problem", "load", "problems", "problems_of", "rambler"]
