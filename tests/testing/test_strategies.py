"""Views that strategies draw are such as the runtime builds, and cover what matters."""

from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, Phase, find, given, settings
from hypothesis import strategies as st

from skipkv._types import CacheView
from skipkv.testing.strategies import budgets, cache_views, scores, sentence_tables


@settings(max_examples=150, deadline=None)
@given(data=st.data(), window=st.integers(0, 3), sinks=st.integers(0, 2))
def test_views_are_consistent(data: Any, window: int, sinks: int) -> None:
    view = data.draw(
        cache_views(window=window, sinks=sinks, queries=2, attention=True, sentences=True)
    )
    rows, heads, slots = view.positions.shape
    for r in range(rows):
        seen = int(view.seen[r])
        for h in range(heads):
            held = view.positions[r, h][view.occupied[r, h]].tolist()
            assert held == view.positions[r, h, : len(held)].tolist()  # no hole between entries
            assert held == sorted(set(held))
            assert all(0 <= position < seen for position in held)
            always = {p for p in range(seen) if p < sinks or p >= seen - window}
            assert always <= set(held)
            kept = view.positions[r, h][view.protected[r, h]].tolist()
            assert kept == sorted(always)
        table = view.sentences[int(view.sequences[r])]
        assert not len(table) or int(table.ends[-1]) <= seen
    assert view.queries.shape[3] == 2
    assert view.attention.shape == (rows, heads, slots)
    for sequence in view.sequences.unique():  # layers of one sequence have seen the same
        assert len(view.seen[view.sequences == sequence].unique()) == 1


@settings(max_examples=80, deadline=None)
@given(table=sentence_tables(seen=12))
def test_tables_hold_unit_vectors_and_increasing_ends(table: Any) -> None:
    ends = table.ends.tolist()
    assert ends == sorted(set(ends))
    assert all(1 <= end <= 12 for end in ends)
    torch.testing.assert_close(table.embeddings.norm(dim=-1), torch.ones(len(ends)))
    assert ((table.thoughts >= 0) & (table.thoughts <= 2)).all()


@settings(max_examples=50, deadline=None)
@given(view=cache_views(), data=st.data())
def test_budgets_leave_what_is_protected(view: CacheView, data: Any) -> None:
    budget = data.draw(budgets(view))
    assert budget >= max(1, int(view.protected.sum(dim=-1).max()))
    assert data.draw(scores(view)).shape == view.positions.shape


def _ragged(view: CacheView) -> bool:
    held = view.occupied.sum(dim=-1)
    return bool((held != held[:, :1]).any())


def _forgotten(view: CacheView) -> bool:
    return bool((view.seen > view.positions.shape[2]).any())


def _repeated(view: CacheView) -> bool:
    return any((table.redundancy(0.95) > 0).any() for table in view.sentences)


def _several_rows_of_one_sequence(view: CacheView) -> bool:
    return len(view.sequences.unique()) < len(view.sequences)


@pytest.mark.parametrize("wanted", [_ragged, _forgotten, _repeated, _several_rows_of_one_sequence])
def test_what_matters_is_found_and_shrinks_to_few_slots(wanted: Any) -> None:
    view = find(
        cache_views(sentences=True),
        wanted,
        settings=settings(
            max_examples=500,
            deadline=None,
            derandomize=True,
            phases=[Phase.generate, Phase.shrink],
            suppress_health_check=list(HealthCheck),
        ),
    )
    assert view.positions.numel() <= 12
