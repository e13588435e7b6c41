"""Budgets that layers divide."""

import math
from fractions import Fraction
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st

from skipkv import Budget
from skipkv._shares import floor_of
from skipkv.budget import divided
from skipkv.errors import ConfigError
from skipkv.policy import LinearShares

SHARES = st.lists(st.floats(0, 1e6), min_size=1, max_size=60).filter(any)


@given(whole=st.integers(0, 10**6), shares=SHARES)
def test_parts_add_up_and_each_is_its_quota_rounded(whole: int, shares: list[float]) -> None:
    parts = divided(whole, shares)
    assert sum(parts) == whole
    for part, share in zip(parts, shares, strict=True):
        quota = whole * (share / math.fsum(shares))
        assert abs(part - quota) < 1 + 1e-6 * whole


@example(hundredths=7, seen=100)
@example(hundredths=29, seen=100)
@given(hundredths=st.integers(1, 100), seen=st.integers(1, 10**6))
def test_a_decimal_share_is_taken_as_it_is_written(hundredths: int, seen: int) -> None:
    ratio = hundredths / 100
    exact = Fraction(hundredths, 100) * seen
    assert Budget(ratio=ratio, window=0).allowed(seen) == max(math.ceil(exact), 1)
    assert floor_of(ratio, seen) == math.floor(exact)


@given(
    shares=SHARES | st.floats(0.51, 100).map(LinearShares),
    layers=st.integers(1, 60),
    window=st.integers(0, 8),
    sinks=st.integers(0, 4),
    more=st.integers(1, 300),
)
def test_layers_hold_their_mean_exactly_and_each_more_than_is_protected(
    shares: list[float] | LinearShares, layers: int, window: int, sinks: int, more: int
) -> None:
    tokens = window + sinks + more
    budget = Budget(tokens=tokens, window=window, sinks=sinks, layers=shares)
    count = layers if isinstance(shares, LinearShares) else len(shares)
    own = budget.of_layers(count)
    assert sum(b.tokens or 0 for b in own) == tokens * count
    for b in own:
        assert b.tokens is not None
        assert b.tokens > window + sinks
        assert (b.window, b.sinks, b.layers) == (window, sinks, None)
    assert budget.least(count) in own


@given(beta=st.floats(0.51, 100), layers=st.integers(2, 60))
def test_linear_shares_are_those_of_pyramidkv(beta: float, layers: int) -> None:
    """Its equations: the last layer has the total over beta * m, and the first is opposite."""
    shares = LinearShares(beta).of(layers)
    assert math.isclose(shares[-1], 1 / beta)
    assert math.isclose(shares[0], 2 - 1 / beta)
    steps = [before - after for before, after in pairwise(shares)]
    assert all(math.isclose(step, steps[0], abs_tol=1e-12) for step in steps)
    assert math.isclose(sum(shares), layers)


def test_without_shares_every_layer_has_the_budget_itself() -> None:
    budget = Budget(ratio=0.5)
    assert budget.of_layers(3) == (budget,) * 3
    assert budget.least(3) is budget


@pytest.mark.parametrize(
    ("layers", "message"),
    [
        ([], "must be LinearShares or a number for each layer"),
        ([1.0, -1.0], "none negative"),
        ([0.0, 0.0], "not all 0"),
        ([1.0, math.nan], "must be LinearShares or a number"),
        (["1"], "must be LinearShares or a number"),
        ("pyramid", "must be LinearShares or a number"),
        ([True, False], "must be LinearShares or a number"),
        (torch.ones(2, 2), "must be LinearShares or a number"),
    ],
)
def test_shares_that_cannot_be_are_refused(layers: object, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Budget(tokens=64, layers=layers)  # type: ignore[arg-type]


def test_shares_may_be_an_array_or_a_tensor() -> None:
    shares = [1.0, 0.5]
    for shared in (np.array(shares, dtype=np.float32), torch.tensor(shares)):
        assert Budget(tokens=64, layers=shared) == Budget(tokens=64, layers=shares)  # type: ignore[arg-type]


def test_a_ratio_has_no_shares() -> None:
    with pytest.raises(ConfigError, match="divides a number of tokens: give tokens"):
        Budget(ratio=0.5, layers=[1.0, 2.0])


@pytest.mark.parametrize("beta", [0.5, 0.0, -1.0, math.inf, math.nan])
def test_a_beta_that_leaves_a_layer_nothing_is_refused(beta: float) -> None:
    with pytest.raises(ConfigError, match="must be finite and exceed 1/2"):
        LinearShares(beta)


def test_the_number_of_layers_must_be_that_of_the_shares() -> None:
    with pytest.raises(ConfigError, match="has 2 shares, and 3 layers"):
        Budget(tokens=64, layers=[1.0, 2.0]).of_layers(3)
