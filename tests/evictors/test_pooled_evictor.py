"""Heads that share their budgets, against a plain greedy choice."""

import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from skipkv import CacheView
from skipkv._shares import floor_of
from skipkv.errors import ConfigError
from skipkv.evictors import Pooled, TopK
from skipkv.testing.strategies import budgets, cache_views, scores


def chosen(
    row: list[list[tuple[bool, float]]], budget: int, floor: float, cap: float
) -> list[set[int]]:
    """What the heads of a row keep; of each head whether an entry is protected, and its score."""
    ranked = [
        sorted(range(len(head)), key=lambda i, head=head: (not head[i][0], -head[i][1], i))  # type: ignore[misc]
        for head in row
    ]
    able = [order[: floor_of(cap, budget)] for order in ranked]
    sure = [
        {i for place, i in enumerate(order) if head[i][0] or place < floor_of(floor, budget)}
        for head, order in zip(row, ranked, strict=True)
    ]
    room = len(row) * budget - sum(map(len, sure))
    rest = [
        (-head[i][1], i, number)
        for number, (head, order) in enumerate(zip(row, able, strict=True))
        for i in order
        if i not in sure[number]
    ]
    rest.sort()
    for value, i, number in rest[:room]:
        if room < len(rest) and rest[room][:2] == (value, i):
            continue  # ties with an entry of another head that has no room
        sure[number].add(i)
    return sure


@settings(max_examples=120, deadline=None)
@given(
    view=cache_views(),
    floor=st.floats(0, 1),
    cap=st.floats(1, 4),
    data=st.data(),
)
def test_the_best_of_all_heads_stay(view: CacheView, floor: float, cap: float, data: Any) -> None:
    values, budget = data.draw(scores(view)), data.draw(budgets(view))
    keep = Pooled(floor=floor, cap=cap).keep(values, view, budget)
    for r in range(len(view.seen)):
        heads = [
            [
                (bool(view.protected[r, h, i]), float(values[r, h, i]))
                for i in range(int(view.occupied[r, h].sum()))
            ]
            for h in range(values.shape[1])
        ]
        found = [set(head.nonzero()[:, 0].tolist()) for head in keep[r]]
        assert found == chosen(heads, budget, floor, cap)


@settings(max_examples=30, deadline=None)
@given(view=cache_views(), data=st.data())
def test_with_a_cap_or_a_floor_of_one_budget_every_head_keeps_its_own_best(
    view: CacheView, data: Any
) -> None:
    values, budget = data.draw(scores(view)), data.draw(budgets(view))
    alone = TopK().keep(values, view, budget)
    for evictor in (Pooled(cap=1.0), Pooled(floor=1.0)):
        kept = evictor.keep(values, view, budget)
        assert torch.equal(kept & alone, alone if evictor.floor == 1 else kept)
    assert torch.equal(Pooled(cap=1.0, floor=1.0).keep(values, view, budget), alone)


def test_a_head_with_higher_scores_gets_more_room() -> None:
    positions = torch.arange(8).expand(1, 2, 8)
    view = CacheView(
        keys=torch.zeros(1, 2, 8, 1),
        values=torch.zeros(1, 2, 8, 1),
        positions=positions,
        protected=positions == 7,
        seen=torch.tensor([8]),
        sequences=torch.tensor([0]),
        layers=torch.tensor([0]),
        depth=1,
    )
    values = torch.stack([torch.arange(8.0), torch.arange(8.0) + 100])[None]
    keep = Pooled(floor=0.5, cap=1.5).keep(values, view, 4)
    assert keep[0].sum(dim=-1).tolist() == [2, 6]
    assert Pooled(floor=0.0, cap=2.0).keep(values, view, 4)[0].sum(dim=-1).tolist() == [1, 7]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"floor": 1.5}, r"Pooled\(floor=1.5\) must lie in \[0, 1\]"),
        ({"cap": 0.5}, r"Pooled\(cap=0.5\) must be at least 1"),
        ({"cap": math.inf}, "must be at least 1 and finite"),
    ],
)
def test_a_share_that_cannot_be_is_refused(options: dict[str, float], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Pooled(**options)
