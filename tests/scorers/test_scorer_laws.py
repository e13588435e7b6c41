"""The laws of the protocol, held by every scorer."""

from typing import Any

import attrs
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from skipkv import scorers
from skipkv._protocols import require
from skipkv._types import CacheView, needs_of
from skipkv.scorers import (
    AccumulatedAttention,
    KeyNorm,
    KeyRedundancy,
    LastQueryAttention,
    Normalized,
    Random,
    Recency,
    Scorer,
    SentenceRedundancy,
    Shared,
    WindowAttention,
)
from skipkv.testing.strategies import cache_views

SCORERS = [
    AccumulatedAttention(),
    KeyNorm(),
    KeyRedundancy(tile=3),
    KeyRedundancy(keep="first"),
    LastQueryAttention(shared=True),
    LastQueryAttention(shared=False),
    Normalized(scorer=KeyNorm()),
    Random(seed=7),
    Recency(),
    SentenceRedundancy(),
    Shared(scorer=KeyNorm()),
    WindowAttention(window=2, pool=3),
    WindowAttention(window=3, pool=1),
    0.1 * WindowAttention(window=2) - 0.9 * KeyRedundancy() - SentenceRedundancy(),
]
VIEWS = cache_views(queries=3, attention=True, sentences=True)
each_scorer = pytest.mark.parametrize("scorer", SCORERS, ids=repr)


def test_every_exported_scorer_is_held_to_the_laws() -> None:
    exported = {getattr(scorers, name) for name in scorers.__all__}
    kinds = {kind for kind in exported if attrs.has(kind)}
    # a sum of weighted scorers is the last of the list
    assert kinds == {type(scorer) for scorer in SCORERS} | {scorers.Weighted}


@each_scorer
def test_a_scorer_has_the_shape_of_the_protocol(scorer: Any) -> None:
    require(scorer, Scorer, "Policy.scorer")
    assert isinstance(hash(scorer), int)


@each_scorer
@settings(max_examples=25, deadline=None)
@given(view=VIEWS)
def test_scores_are_finite_float32_of_the_view_s_shape(scorer: Any, view: CacheView) -> None:
    scores = scorer.score(view)
    assert scores.dtype == torch.float32
    assert scores.shape == view.positions.shape
    assert scores[view.occupied].isfinite().all()


@each_scorer
@settings(max_examples=25, deadline=None)
@given(view=VIEWS, more=st.integers(0, 5), huge=st.booleans())
def test_empty_slots_do_not_matter(scorer: Any, view: CacheView, more: int, huge: bool) -> None:
    """Neither what they hold, nor how many there are."""
    other = with_other_empty_slots(view, more, 3e38 if huge else 100.0)
    scores = scorer.score(view)
    changed = scorer.score(other)[..., : view.positions.shape[2]]
    torch.testing.assert_close(changed[view.occupied], scores[view.occupied], atol=1e-6, rtol=1e-4)


@each_scorer
@settings(max_examples=25, deadline=None)
@given(view=VIEWS, data=st.data())
def test_a_row_s_scores_depend_on_that_row_alone(scorer: Any, view: CacheView, data: Any) -> None:
    """Rows in another order, some left out: each scores as before."""
    rows = data.draw(st.permutations(range(view.seen.shape[0])))
    rows = rows[: data.draw(st.integers(1, len(rows)))]
    scores = scorer.score(view)[rows]
    occupied = view.occupied[rows]
    changed = scorer.score(rows_of(view, rows))
    torch.testing.assert_close(changed[occupied], scores[occupied], atol=1e-6, rtol=1e-4)


@each_scorer
@settings(max_examples=20, deadline=None)
@given(view=VIEWS)
def test_half_precision_views_are_scored_in_float32(scorer: Any, view: CacheView) -> None:
    """bfloat16 loses digits of what is stored, but none of what is computed from it."""
    half = cast(view, torch.bfloat16)
    scores = scorer.score(half)
    assert scores.dtype == torch.float32
    expected = scorer.score(cast(half, torch.float32))
    assert torch.equal(scores[view.occupied], expected[view.occupied])


@each_scorer
@settings(max_examples=20, deadline=None)
@given(view=VIEWS)
def test_a_scorer_changes_nothing_it_is_shown(scorer: Any, view: CacheView) -> None:
    before = {name: value.clone() for name, value in tensors(view).items()}
    scorer.score(view)
    for name, value in tensors(view).items():
        assert torch.equal(value, before[name]), name


@each_scorer
@settings(max_examples=20, deadline=None)
@given(view=VIEWS)
def test_a_scorer_reads_no_more_than_it_declares(scorer: Any, view: CacheView) -> None:
    needs = needs_of(scorer)
    bare = attrs.evolve(
        view,
        queries=view.queries[:, :, :, -needs.queries :] if needs.queries else None,
        attention=view.attention if needs.attention else None,
        sentences=view.sentences if needs.sentences else None,
    )
    occupied = view.occupied
    assert torch.equal(scorer.score(bare)[occupied], scorer.score(view)[occupied])


@pytest.mark.parametrize(
    ("scorer", "message"),
    [
        (WindowAttention(window=2), r"WindowAttention reads the last 2 queries.*queries holds 0"),
        (LastQueryAttention(), r"LastQueryAttention reads the last 1 queries"),
        (AccumulatedAttention(), r"CacheView.attention.*Needs\(attention=True\)"),
        (SentenceRedundancy(), r"Needs\(sentences=True\)"),
    ],
    ids=repr,
)
@settings(max_examples=1, deadline=None)
@given(view=cache_views())
def test_a_view_without_what_a_scorer_needs_is_a_clear_error(
    scorer: Any, message: str, view: CacheView
) -> None:
    with pytest.raises(ValueError, match=message):
        scorer.score(view)


@settings(max_examples=1, deadline=None)
@given(view=cache_views(queries=2))
def test_too_few_queries_are_a_clear_error(view: CacheView) -> None:
    with pytest.raises(ValueError, match=r"last 3 queries, but CacheView.queries holds 2"):
        WindowAttention(window=3).score(view)


def tensors(view: CacheView) -> dict[str, torch.Tensor]:
    fields = attrs.asdict(view, recurse=False)
    return {name: value for name, value in fields.items() if isinstance(value, torch.Tensor)}


def cast(view: CacheView, dtype: torch.dtype) -> CacheView:
    return attrs.evolve(
        view,
        keys=view.keys.to(dtype),
        values=view.values.to(dtype),
        queries=view.queries.to(dtype),
    )


def rows_of(view: CacheView, rows: list[int]) -> CacheView:
    return attrs.evolve(view, **{name: value[rows] for name, value in tensors(view).items()})


def with_other_empty_slots(view: CacheView, more: int, size: float) -> CacheView:
    """The view with `more` empty slots behind, and `size` or its negative in all empty ones."""

    def longer(tensor: torch.Tensor, value: float) -> torch.Tensor:
        behind = tensor.new_full((*tensor.shape[:2], more, *tensor.shape[3:]), value)
        return torch.cat([tensor, behind], dim=2)

    positions = longer(view.positions, -1)
    empty = positions < 0

    def noisy(tensor: torch.Tensor) -> torch.Tensor:
        tensor = longer(tensor, size)
        sign = torch.ones_like(tensor)
        sign[..., 1::2] = -1  # along the last axis, so that sums may cancel or overflow
        mask = empty.reshape(*empty.shape, *(1,) * (tensor.dim() - 3))
        return torch.where(mask, sign * size, tensor)

    return attrs.evolve(
        view,
        keys=noisy(view.keys),
        values=noisy(view.values),
        positions=positions,
        protected=longer(view.protected, False),
        attention=noisy(view.attention),
    )
