import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from skipkv._types import CacheView
from skipkv.errors import ConfigError
from skipkv.scorers import WindowAttention
from skipkv.testing.strategies import cache_views


def reference(view: CacheView, window: int, pool: int) -> torch.Tensor:
    """The formula, entry by entry, in float64."""
    rows, heads, slots = view.positions.shape
    groups, held = view.queries.shape[2:4]
    scores = torch.zeros(rows, heads, slots, dtype=torch.float64)
    for r in range(rows):
        for h in range(heads):
            positions = view.positions[r, h].tolist()
            before = [j for j, p in enumerate(positions) if 0 <= p < int(view.seen[r]) - window]
            mean = dict.fromkeys(before, 0.0)
            for w in range(held - window, held):
                logits = {}
                for j in before:
                    key = view.keys[r, h, j].double()
                    dots = [float(view.queries[r, h, g, w].double() @ key) for g in range(groups)]
                    logits[j] = max(dots) / math.sqrt(key.shape[0])
                top = max(logits.values(), default=0.0)
                total = sum(math.exp(x - top) for x in logits.values())
                for j in before:
                    mean[j] += math.exp(logits[j] - top) / total / window
            for j in before:
                near = [mean[i] for i in before if abs(i - j) <= pool // 2]
                scores[r, h, j] = max(near)
    return scores


@settings(max_examples=80, deadline=None)
@given(
    view=cache_views(queries=4),
    window=st.integers(1, 4),
    pool=st.sampled_from([1, 3, 5, 7, 9]),
)
def test_it_equals_the_formula_written_out(view: CacheView, window: int, pool: int) -> None:
    scores = WindowAttention(window=window, pool=pool).score(view)
    expected = reference(view, window, pool)
    torch.testing.assert_close(scores[view.occupied].double(), expected[view.occupied])


@settings(max_examples=50, deadline=None)
@given(view=cache_views(queries=3))
def test_without_pooling_the_entries_before_the_window_share_one(view: CacheView) -> None:
    scores = WindowAttention(window=2, pool=1).score(view)
    before = view.occupied & ~view.within_window(2)
    shares = scores.masked_fill(~view.occupied, 0).sum(dim=-1)
    torch.testing.assert_close(shares, before.any(dim=-1).float())
    assert (scores[view.within_window(2)] == 0).all()


@pytest.mark.parametrize("window", [0, -1])
def test_a_window_below_one_is_refused(window: int) -> None:
    with pytest.raises(ConfigError, match=rf"WindowAttention\(window={window}\) must be at least"):
        WindowAttention(window=window)


@pytest.mark.parametrize("pool", [0, 2, 6, -1, -7])
def test_a_pool_without_a_middle_is_refused(pool: int) -> None:
    with pytest.raises(ConfigError, match=rf"WindowAttention\(pool={pool}\) must be odd"):
        WindowAttention(pool=pool)
