import math

import torch
from hypothesis import given, settings

from skipkv._types import CacheView
from skipkv.scorers import LastQueryAttention
from skipkv.testing.strategies import cache_views


def attention(view: CacheView, r: int, h: int, g: int) -> dict[int, float]:
    """Softmax attention of the newest query of one query head, by position, in float64."""
    logits = {}
    for slot, position in enumerate(view.positions[r, h].tolist()):
        if position >= 0:
            key, query = view.keys[r, h, slot].double(), view.queries[r, h, g, -1].double()
            logits[position] = float(query @ key) / math.sqrt(key.shape[0])
    total = sum(math.exp(x) for x in logits.values())
    return {position: math.exp(x) / total for position, x in logits.items()}


@settings(max_examples=60, deadline=None)
@given(view=cache_views(queries=2))
def test_shared_it_is_tova_s_mean_over_all_heads_of_the_layer(view: CacheView) -> None:
    rows, heads, _ = view.positions.shape
    groups = view.queries.shape[2]
    scores = LastQueryAttention(shared=True).score(view)
    for r in range(rows):
        maps = [attention(view, r, h, g) for h in range(heads) for g in range(groups)]
        for h, slot in view.occupied[r].nonzero().tolist():
            position = int(view.positions[r, h, slot])
            mean = sum(one.get(position, 0.0) for one in maps) / len(maps)
            torch.testing.assert_close(float(scores[r, h, slot]), mean, atol=1e-6, rtol=1e-4)


@settings(max_examples=60, deadline=None)
@given(view=cache_views(queries=1))
def test_per_head_it_is_the_mean_over_the_query_heads_of_each_kv_head(view: CacheView) -> None:
    groups = view.queries.shape[2]
    scores = LastQueryAttention(shared=False).score(view)
    for r, h, slot in view.occupied.nonzero().tolist():
        maps = [attention(view, r, h, g) for g in range(groups)]
        mean = sum(one[int(view.positions[r, h, slot])] for one in maps) / groups
        torch.testing.assert_close(float(scores[r, h, slot]), mean, atol=1e-6, rtol=1e-4)
