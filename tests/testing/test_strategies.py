"""Views that strategies draw are such as the runtime builds, and cover what matters."""

from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, Phase, find, given, settings
from hypothesis import strategies as st

from skipkv._types import CacheView, needs_of
from skipkv.scorers import AccumulatedAttention, SentenceRedundancy, WindowAttention
from skipkv.testing.strategies import (
    budgets,
    cache_views,
    hidden_states,
    scores,
    sentence_tables,
    steering_contexts,
    views_for,
)
from skipkv.testing.streams import request_queues, token_streams


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
        layers = view.layers[view.sequences == sequence].tolist()  # each of them once
        assert len(set(layers)) == len(layers)
        assert all(0 <= layer < view.depth for layer in layers)


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


def _layers_apart(view: CacheView) -> bool:
    return bool(((view.layers > 0) & (view.layers < view.depth - 1)).any())


def _several_rows_of_one_sequence(view: CacheView) -> bool:
    return len(view.sequences.unique()) < len(view.sequences)


@pytest.mark.parametrize(
    "wanted", [_ragged, _forgotten, _repeated, _layers_apart, _several_rows_of_one_sequence]
)
def test_what_matters_is_found_and_shrinks_to_few_slots(wanted: Any) -> None:
    assert smallest(cache_views(sentences=True), wanted).positions.numel() <= 12


def test_numbers_shrink_to_few_and_round_ones() -> None:
    view = smallest(
        cache_views(queries=1, attention=True), lambda view: bool((view.keys > 1).any())
    )
    assert view.keys.numel() <= 2
    for tensor in (view.keys, view.values, view.queries, view.attention):
        assert torch.equal(tensor * 8, (tensor * 8).round())
        assert tensor.abs().max() <= 2


def test_what_matters_to_nobody_shrinks_to_one_row_of_zeros() -> None:
    context = smallest(steering_contexts(), lambda context: True)
    assert context.at_delimiter.tolist() == context.thinking.tolist() == [False]
    assert context.thoughts.tolist() == [[0, 0, 0]]
    assert context.positions.tolist() == [0]
    assert smallest(hidden_states(), lambda hidden: True).tolist() == [[0.0]]
    view = smallest(cache_views(), lambda view: True)
    assert view.keys.tolist() == [[[[0.0]]]]


def test_streams_and_queues_shrink_to_single_items() -> None:
    stream = smallest(token_streams(), lambda stream: "\n" in stream.text)
    assert (list(stream.ids), list(stream.pieces)) == ([0], ["\n"])
    queue = smallest(request_queues(), lambda queue: len(queue) > 1)
    assert [(r.prompt_tokens, r.max_new_tokens) for r in queue] == [(1, 1), (1, 1)]


@pytest.mark.parametrize(
    "part",
    [WindowAttention(window=3), AccumulatedAttention(), SentenceRedundancy(), object()],
    ids=lambda part: type(part).__name__,
)
@settings(max_examples=20, deadline=None)
@given(data=st.data())
def test_views_for_a_part_hold_what_it_declares_and_no_more(part: Any, data: Any) -> None:
    view, needs = data.draw(views_for(part, heads=2)), needs_of(part)
    assert view.keys.shape[1] == 2
    assert (0 if view.queries is None else view.queries.shape[3]) == needs.queries
    assert (view.attention is not None) == needs.attention
    assert (view.sentences is not None) == needs.sentences
    # the tokens whose queries are seen are in the window, as Policy asks
    assert (view.protected | ~view.within_window(needs.queries)).all()


def smallest(strategy: Any, wanted: Any) -> Any:
    return find(
        strategy,
        wanted,
        settings=settings(
            max_examples=500,
            deadline=None,
            derandomize=True,
            phases=[Phase.generate, Phase.shrink],
            suppress_health_check=list(HealthCheck),
        ),
    )
