"""Budgets as they are asked for."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from skipkv.errors import ConfigError
from skipkv.evaluation import BudgetPoint, Cell


def test_a_budget_is_tokens_or_percent_of_the_full_trace():
    assert BudgetPoint.parse("96").tokens_of(400.0) == 96
    assert BudgetPoint.parse(96) == BudgetPoint(tokens=96)
    assert BudgetPoint.parse(" 12.5% ").tokens_of(400) == 50
    assert BudgetPoint.parse("0.01%").tokens_of(400) == 1


@given(st.one_of(st.integers(1, 9999), st.floats(0.1, 100).map(lambda x: f"{x:.2f}%")))
def test_a_budget_reads_back_from_its_text(value):
    point = BudgetPoint.parse(value)
    assert BudgetPoint.parse(str(point)) == point


@pytest.mark.parametrize("value", ["", "x", "1.5", "0", "-3", "0%", "101%", "nan%", "%", "25 %%"])
def test_what_is_no_budget_is_said(value):
    with pytest.raises(ConfigError, match=r"[Bb]udget"):
        BudgetPoint.parse(value)
    with pytest.raises(ConfigError, match="Give exactly one"):
        BudgetPoint(tokens=1, percent=2.0)


def test_cells_are_named_for_people():
    assert str(Cell(data="tiny", policy="full")) == "tiny: full"
    assert str(Cell(data="tiny", policy="rkv", asked="96", budget=96)) == "tiny: rkv at 96"
