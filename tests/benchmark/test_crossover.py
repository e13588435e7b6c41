"""The crossover is where the lead changes for the last time."""

import itertools

from hypothesis import given
from hypothesis import strategies as st

from skipkv.benchmark import crossover

steps = st.lists(st.integers(1, 9), min_size=1, max_size=30)


def curve(steps: list[int]) -> list[tuple[int, float]]:
    return [(n + 1, float(s)) for n, s in enumerate(itertools.accumulate(steps))]


@given(steps, steps)
def test_from_it_on_ours_is_ahead_and_just_before_it_is_not(
    ours: list[int], theirs: list[int]
) -> None:
    mine, other = dict(curve(ours)), dict(curve(theirs))
    shared = sorted(set(mine) & set(other))
    ahead = [mine[n] < other[n] for n in shared]
    at = crossover(curve(ours), curve(theirs))
    if not ahead[-1]:
        assert at is None
    else:
        assert at is not None
        assert all(a for n, a in zip(shared, ahead, strict=True) if n >= at)
        assert at == shared[0] or not ahead[shared.index(at) - 1]


def test_between_two_points_time_passes_evenly() -> None:
    assert crossover([(1, 5.0), (101, 10.0)], [(1, 0.0), (101, 20.0)]) == 35


def test_nothing_overtakes_what_was_not_measured() -> None:
    assert crossover([], [(1, 1.0)]) is None
    assert crossover([(1, 1.0)], []) is None
    assert crossover([(10, 1.0), (20, 2.0)], [(1, 1.0), (5, 9.0)]) is None
