import torch
from hypothesis import given, settings

from skipkv._types import CacheView, Needs
from skipkv.evictors import TopK
from skipkv.scorers import KeyNorm, Shared, WindowAttention
from skipkv.testing.strategies import cache_views


@settings(max_examples=80, deadline=None)
@given(view=cache_views())
def test_heads_are_matched_by_position_and_an_absent_token_counts_as_zero(view: CacheView) -> None:
    own, shared = KeyNorm().score(view), Shared(scorer=KeyNorm()).score(view)
    rows, heads, _ = view.positions.shape
    for r in range(rows):
        total: dict[int, float] = {}
        for h, slot in view.occupied[r].nonzero().tolist():
            position = int(view.positions[r, h, slot])
            total[position] = total.get(position, 0.0) + float(own[r, h, slot])
        for h, slot in view.occupied[r].nonzero().tolist():
            mean = total[int(view.positions[r, h, slot])] / heads
            torch.testing.assert_close(float(shared[r, h, slot]), mean, atol=1e-5, rtol=1e-5)


@settings(max_examples=40, deadline=None)
@given(view=cache_views(rows=2, heads=3, slots=12))
def test_heads_that_hold_the_same_tokens_keep_the_same_tokens(view: CacheView) -> None:
    same = view.positions[:, :1].expand_as(view.positions)
    protected = view.protected[:, :1].expand_as(view.protected)
    view = CacheView(
        keys=view.keys,
        values=view.values,
        positions=same,
        protected=protected,
        seen=view.seen,
        sequences=view.sequences,
    )
    budget = max(4, int(protected.sum(dim=-1).max()))
    keep = TopK().keep(Shared(scorer=KeyNorm()).score(view), view, budget)
    assert (keep == keep[:, :1]).all()


def test_it_needs_what_its_scorer_needs() -> None:
    assert Shared(scorer=WindowAttention(window=5)).needs == Needs(queries=5)
