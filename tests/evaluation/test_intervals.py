"""95 % intervals."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from skipkv.evaluation.intervals import mean, mean_share, paired, proportion


def test_a_share_has_wilsons_interval():
    # Wilson's formula by hand for 8 of 10, z = 1.959964
    z, p, n = 1.959964, 0.8, 10
    centre = (p + z * z / (2 * n)) / (1 + z * z / n)
    reach = z / (1 + z * z / n) * np.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    found = proportion(8, 10)
    assert found.value == 0.8
    assert (found.low, found.high) == pytest.approx((centre - reach, centre + reach), abs=1e-6)


def test_a_share_of_none_or_all_has_an_interval_too():
    assert proportion(0, 100).high == pytest.approx(1 - proportion(100, 100).low)
    assert 0.03 < proportion(0, 100).high < 0.04


def test_the_bootstrap_comes_near_the_normal_interval_of_many_values():
    values = np.random.default_rng(0).normal(5, 2, 400).tolist()
    found = mean(values)
    reach = 1.96 * np.std(values) / 20
    assert found.low == pytest.approx(found.value - reach, abs=0.05)
    assert found.high == pytest.approx(found.value + reach, abs=0.05)


def test_the_same_values_give_the_same_interval():
    assert mean([1.0, 2.0, 5.0]) == mean([1.0, 2.0, 5.0])


@settings(max_examples=30, deadline=None)
@given(st.lists(st.sampled_from([0.0, 0.5, 1.0]), min_size=1, max_size=12))
def test_intervals_hold_their_value_and_stay_in_bounds(values):
    share = mean_share(values)
    assert 0 <= share.low <= share.value + 1e-12
    assert share.value - 1e-12 <= share.high <= 1
    difference = paired(values, [1.0] * len(values))
    assert -1 <= difference.low <= difference.value + 1e-12
    assert difference.value - 1e-12 <= difference.high <= 1


def test_equal_policies_differ_by_less_the_more_problems_there_are():
    few, many = paired([1.0] * 10, [1.0] * 10), paired([1.0] * 500, [1.0] * 500)
    assert few.value == many.value == 0
    assert few.high > 0.2
    assert 0 < many.high < 0.01


def test_pairing_tells_apart_what_two_intervals_do_not():
    rng = np.random.default_rng(1)
    full = (rng.random(200) < 0.5).astype(float)
    worse = full.copy()
    worse[np.flatnonzero(full)[:10]] = 0  # ten problems lost, none won
    assert paired(worse.tolist(), full.tolist()).high < 0
    assert mean_share(worse.tolist()).high > mean_share(full.tolist()).low
