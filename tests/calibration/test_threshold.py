"""The threshold of a repeated sentence: its bound, its interval, and what it refuses."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from skipkv.calibration import RepeatThreshold, TraceSimilarities
from skipkv.errors import InputError


def traces(restated: list[float], unrestated: list[float], number: int) -> list[TraceSimilarities]:
    """The similarities, dealt out to so many traces."""
    return [
        TraceSimilarities(
            restated=tuple(restated[place::number]), unrestated=tuple(unrestated[place::number])
        )
        for place in range(number)
    ]


def drawn(seed: int, number: int, low: float, high: float) -> list[float]:
    return np.random.default_rng(seed).uniform(low, high, number).tolist()


@settings(max_examples=10)  # each resamples a thousand times
@given(
    others=st.lists(st.floats(0.01, 0.9), min_size=100, max_size=140),
    number=st.integers(1, 9),
)
def test_it_is_the_lowest_that_at_most_a_twentieth_of_the_others_exceed(
    others: list[float], number: int
) -> None:
    found = RepeatThreshold.of(traces([0.95] * 40, others, number))
    at = found.threshold.value
    assert found.mistaken == np.mean(np.array(others) > at) <= 0.05
    lower = at - 0.0011  # thresholds are rounded up to a thousandth
    assert np.mean(np.array(others) > lower) > 0.05
    assert found.found.value == found.auc.value == 1


def test_the_area_is_the_chance_that_a_restated_sentence_is_the_more_similar_one() -> None:
    restated, others = drawn(0, 60, 0.3, 1.0), drawn(1, 200, 0.0, 0.8)
    found = RepeatThreshold.of(traces(restated, others, 30))
    chance = np.mean(np.array(restated)[:, None] > np.array(others))
    assert found.auc.value == pytest.approx(chance)
    for estimate in (found.auc, found.threshold, found.found):
        assert estimate.low < estimate.value < estimate.high
    assert (found.traces, found.restated, found.unrestated) == (30, 60, 200)


def test_intervals_are_over_traces_since_sentences_of_a_trace_are_alike() -> None:
    levels = drawn(3, 20, 0.2, 0.8)
    alike = [
        TraceSimilarities(restated=(0.9, 0.9), unrestated=tuple([level] * 10)) for level in levels
    ]
    mixed = traces([0.9] * 40, drawn(3, 200, 0.2, 0.8), 20)
    wide, narrow = (RepeatThreshold.of(some).threshold for some in (alike, mixed))
    assert wide.high - wide.low > 2 * (narrow.high - narrow.low)


@pytest.mark.parametrize(("restated", "others"), [(19, 100), (20, 99), (0, 0)])
def test_too_few_sentences_are_refused(restated: int, others: int) -> None:
    with pytest.raises(
        InputError, match=r"Use more questions or longer traces\. Keep the published"
    ):
        RepeatThreshold.of(traces([0.9] * restated, drawn(0, others, 0.1, 0.5), 4))
    RepeatThreshold.of(traces([0.9] * 20, drawn(0, 100, 0.1, 0.5), 4))


@pytest.mark.parametrize(
    "restated",
    [
        drawn(0, 100, 0.2, 0.8),  # as the others
        drawn(0, 100, 0.0, 0.1),  # farther apart than the others
        drawn(0, 100, 0.55, 0.75),  # mostly above them, but none above the threshold
    ],
)
def test_similarity_that_tells_nothing_apart_is_refused(restated: list[float]) -> None:
    with pytest.raises(InputError, match=r"does not tell restated sentences from others.*0\.95"):
        RepeatThreshold.of(traces(restated, drawn(1, 400, 0.2, 0.8), 20))


def test_no_threshold_is_outside_what_a_policy_takes() -> None:
    with pytest.raises(InputError, match="does not tell"):
        RepeatThreshold.of(traces([0.9] * 40, [-0.5] * 200, 20))
    found = RepeatThreshold.of(traces([0.9] * 40, [0.0001] * 200, 20))
    assert math.isclose(found.threshold.value, 0.001)


def test_what_a_policy_does_counts_and_not_the_order_of_all_sentences() -> None:
    restated = [0.9] * 50 + [0.0] * 50  # area 0.5, but half of them lie above all others
    found = RepeatThreshold.of(traces(restated, drawn(1, 400, 0.2, 0.8), 20))
    assert found.found.value == 0.5
