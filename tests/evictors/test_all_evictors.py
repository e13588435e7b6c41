"""What evictors have in common beyond the laws of their protocol (tests/testing holds those)."""

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from skipkv._types import CacheView
from skipkv.evictors import SentencePrimary, Shared, SinkAndRecent, TopK, WholeSentence
from skipkv.testing.strategies import budgets, cache_views, scores

FILL = [
    TopK(),
    SinkAndRecent(sinks=2),
    SinkAndRecent(sinks=0),
    SentencePrimary(whole=False),
    *(Shared(over=over) for over in ("mean", "max", "vote")),
]
VIEWS = cache_views(sentences=True)


@pytest.mark.parametrize("evictor", FILL, ids=repr)
@settings(max_examples=50, deadline=None)
@given(view=VIEWS, data=st.data())
def test_exactly_the_budget_remains_where_entries_go_one_by_one(
    evictor: Any, view: CacheView, data: Any
) -> None:
    budget = data.draw(budgets(view))
    keep = evictor.keep(data.draw(scores(view)), view, budget)
    assert torch.equal(keep.sum(dim=-1), view.occupied.sum(dim=-1).clamp_max(budget))


@pytest.mark.parametrize("evictor", [SentencePrimary(), WholeSentence()], ids=repr)
@settings(max_examples=1, deadline=None)
@given(view=cache_views())
def test_a_view_without_sentences_is_a_clear_error(evictor: Any, view: CacheView) -> None:
    with pytest.raises(ValueError, match=r"Needs\(sentences=True\)"):
        evictor.keep(torch.zeros(view.positions.shape), view, 5)
