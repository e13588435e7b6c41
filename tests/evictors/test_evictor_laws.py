"""The laws of the protocol, held by every evictor that minds its budget."""

from typing import Any

import attrs
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from skipkv import evictors
from skipkv._protocols import require
from skipkv._types import CacheView, needs_of
from skipkv.evictors import (
    Evictor,
    KeepAll,
    SentencePrimary,
    SinkAndRecent,
    TopK,
    WholeSentence,
)
from skipkv.testing.strategies import budgets, cache_views, scores

EVICTORS = [
    TopK(),
    SinkAndRecent(sinks=2),
    SinkAndRecent(sinks=0),
    SentencePrimary(whole=True),
    SentencePrimary(whole=False),
    WholeSentence(),
]
FILL = [one for one in EVICTORS if one not in (SentencePrimary(whole=True), WholeSentence())]
VIEWS = cache_views(sentences=True)
each_evictor = pytest.mark.parametrize("evictor", EVICTORS, ids=repr)


def test_every_exported_evictor_is_held_to_the_laws() -> None:
    exported = {getattr(evictors, name) for name in evictors.__all__}
    kinds = {kind for kind in exported if attrs.has(kind)}
    assert kinds == {type(evictor) for evictor in EVICTORS} | {KeepAll}


@pytest.mark.parametrize("evictor", [*EVICTORS, KeepAll()], ids=repr)
def test_an_evictor_has_the_shape_of_the_protocol_and_can_be_pasted_back(evictor: Any) -> None:
    require(evictor, Evictor, "Policy.evictor")
    assert eval(repr(evictor), vars(evictors).copy()) == evictor


@each_evictor
@settings(max_examples=60, deadline=None)
@given(view=VIEWS, data=st.data())
def test_budget_protection_and_emptiness_are_respected(
    evictor: Any, view: CacheView, data: Any
) -> None:
    budget = data.draw(budgets(view))
    keep = evictor.keep(data.draw(scores(view)), view, budget)
    assert keep.dtype == torch.bool
    assert keep.shape == view.positions.shape
    assert (keep.sum(dim=-1) <= budget).all()
    assert not (keep & ~view.occupied).any()
    assert not (view.protected & ~keep).any()
    roomy = view.occupied.sum(dim=-1) <= budget
    assert torch.equal(keep[roomy], view.occupied[roomy])


@pytest.mark.parametrize("evictor", FILL, ids=repr)
@settings(max_examples=50, deadline=None)
@given(view=VIEWS, data=st.data())
def test_exactly_the_budget_remains_where_entries_go_one_by_one(
    evictor: Any, view: CacheView, data: Any
) -> None:
    budget = data.draw(budgets(view))
    keep = evictor.keep(data.draw(scores(view)), view, budget)
    assert torch.equal(keep.sum(dim=-1), view.occupied.sum(dim=-1).clamp_max(budget))


@each_evictor
@settings(max_examples=50, deadline=None)
@given(view=VIEWS, data=st.data())
def test_a_row_s_entries_are_kept_by_that_row_alone(
    evictor: Any, view: CacheView, data: Any
) -> None:
    """Rows in another order, some left out, and heads likewise: each keeps as before."""
    rows = data.draw(st.permutations(range(view.positions.shape[0])))
    rows = rows[: data.draw(st.integers(1, len(rows)))]
    heads = data.draw(st.permutations(range(view.positions.shape[1])))
    values, budget = data.draw(scores(view)), data.draw(budgets(view))
    keep = evictor.keep(values, view, budget)
    part = attrs.evolve(
        view,
        keys=view.keys[rows][:, heads],
        values=view.values[rows][:, heads],
        positions=view.positions[rows][:, heads],
        protected=view.protected[rows][:, heads],
        seen=view.seen[rows],
        sequences=view.sequences[rows],
    )
    assert torch.equal(evictor.keep(values[rows][:, heads], part, budget), keep[rows][:, heads])


@each_evictor
@settings(max_examples=50, deadline=None)
@given(view=VIEWS, data=st.data(), more=st.integers(0, 4))
def test_empty_slots_do_not_matter(evictor: Any, view: CacheView, data: Any, more: int) -> None:
    """Neither their scores, nor how many there are."""
    values, budget = data.draw(scores(view)), data.draw(budgets(view))

    def longer(tensor: torch.Tensor, value: float) -> torch.Tensor:
        return torch.nn.functional.pad(tensor, (0, more), value=value)

    noisy = longer(values, 99.0).masked_fill(longer(view.positions, -1) < 0, torch.nan)
    other = attrs.evolve(
        view,
        keys=torch.cat([view.keys, view.keys[:, :, :1].expand(-1, -1, more, -1)], dim=2),
        values=torch.cat([view.values, view.values[:, :, :1].expand(-1, -1, more, -1)], dim=2),
        positions=longer(view.positions, -1),
        protected=longer(view.protected, False),
    )
    keep = evictor.keep(noisy, other, budget)
    assert torch.equal(keep, longer(evictor.keep(values, view, budget), False))


@each_evictor
@settings(max_examples=30, deadline=None)
@given(view=VIEWS, data=st.data())
def test_an_evictor_reads_no_more_than_it_declares_and_changes_nothing(
    evictor: Any, view: CacheView, data: Any
) -> None:
    values, budget = data.draw(scores(view)), data.draw(budgets(view))
    keep = evictor.keep(values, view, budget)
    before = values.clone(), view.positions.clone(), view.protected.clone()
    bare = view if needs_of(evictor).sentences else attrs.evolve(view, sentences=None)
    assert torch.equal(evictor.keep(values, bare, budget), keep)
    assert all(map(torch.equal, before, (values, view.positions, view.protected)))


@pytest.mark.parametrize("evictor", [SentencePrimary(), WholeSentence()], ids=repr)
@settings(max_examples=1, deadline=None)
@given(view=cache_views())
def test_a_view_without_sentences_is_a_clear_error(evictor: Any, view: CacheView) -> None:
    with pytest.raises(ValueError, match=r"Needs\(sentences=True\)"):
        evictor.keep(torch.zeros(view.positions.shape), view, 5)
