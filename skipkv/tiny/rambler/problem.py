"""The problems of the rambling reasoner: those of `tiny`, with fewer names."""

import random

from skipkv.tiny.problem import TEST, Problem, draw

LEAST, MOST = 6, 7
"""The fewest and the most names of a problem."""


def problems(count: int, *, seed: int = 0, split: str = TEST) -> list[Problem]:
    """Problems drawn at random; the same seed gives the same problems.

    Args:
        count: number of problems.
        seed: any number.
        split: "test" or "train". The two never share a stream of random numbers.

    Example:
        >>> from skipkv.tiny import rambler
        >>> print(rambler.problems(1)[0].question)
        v:u-5; y:u+7; x:v-w; w:v+7; z:y-7; u:5. Start at u, find u and z.
    """
    return [
        draw(random.Random(f"rambler/{split}/{seed}/{number}"), least=LEAST, most=MOST)
        for number in range(count)
    ]
