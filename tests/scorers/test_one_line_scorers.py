"""Scorers that are one line: what their values are."""

import itertools

import attrs
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from skipkv._types import CacheView, Needs
from skipkv.errors import ConfigError
from skipkv.scorers import (
    AccumulatedAttention,
    AttentionRate,
    KeyDiff,
    KeyNorm,
    Normalized,
    SentenceRedundancy,
    WindowAttention,
)
from skipkv.testing.strategies import cache_views


@settings(max_examples=30, deadline=None)
@given(view=cache_views())
def test_keys_of_small_norm_are_worth_more(view: CacheView) -> None:
    scores = KeyNorm().score(view)
    torch.testing.assert_close(scores, -view.keys.double().square().sum(-1).sqrt().float())


@pytest.mark.parametrize("unrotated", [False, True])
@settings(max_examples=60, deadline=None)
@given(view=cache_views(rotary=True))
def test_keys_that_point_away_from_the_mean_direction_are_worth_more(
    view: CacheView, unrotated: bool
) -> None:
    scores = KeyDiff(unrotated=unrotated).score(view)
    keys = view.unrotated_keys if unrotated else view.keys
    for r, h in itertools.product(*map(range, view.positions.shape[:2])):
        there = view.occupied[r, h]
        units = [k / k.norm().clamp_min(1e-12) for k in keys[r, h][there].double()]
        mean = sum(units, torch.zeros(keys.shape[-1], dtype=torch.float64)) / len(units)
        assume(mean.norm() > 1e-3)  # a zero vector has no direction, whatever rounding says
        expected = [-torch.cosine_similarity(unit, mean, dim=0).float() for unit in units]
        torch.testing.assert_close(scores[r, h][there], torch.stack(expected), atol=1e-4, rtol=0)


@settings(max_examples=30, deadline=None)
@given(view=cache_views(attention=True))
def test_accumulated_attention_is_the_view_s(view: CacheView) -> None:
    assert torch.equal(AccumulatedAttention().score(view), view.attention)


@settings(max_examples=30, deadline=None)
@given(view=cache_views(attention=True))
def test_the_rate_of_attention_is_a_mean_over_the_queries_that_could_read_the_entry(
    view: CacheView,
) -> None:
    scores = AttentionRate().score(view)
    assert torch.isfinite(scores).all()
    for r, h, slot in view.occupied.nonzero().tolist():
        queries = int(view.seen[r]) - int(view.positions[r, h, slot])  # its own and all later ones
        rate = float(view.attention[r, h, slot].double()) / queries
        assert float(scores[r, h, slot].exp()) == pytest.approx(max(rate, 1e-9), rel=1e-4)


@settings(max_examples=30, deadline=None)
@given(view=cache_views(attention=True), pool=st.sampled_from([3, 5]))
def test_a_pooled_rate_is_the_highest_of_an_entry_and_its_neighbours(
    view: CacheView, pool: int
) -> None:
    scores, rates = AttentionRate(pool=pool).score(view), AttentionRate().score(view)
    for r, h, slot in view.occupied.nonzero().tolist():
        near = range(max(0, slot - pool // 2), min(rates.shape[2], slot + pool // 2 + 1))
        held = [float(rates[r, h, other]) for other in near if view.occupied[r, h, other]]
        assert float(scores[r, h, slot]) == max(held)


@pytest.mark.parametrize("pool", [0, 2, -3])
def test_a_pool_of_rates_has_a_middle(pool: int) -> None:
    with pytest.raises(ConfigError, match=rf"pool={pool}\) must be odd"):
        AttentionRate(pool=pool)


@settings(max_examples=80, deadline=None)
@given(view=cache_views(sentences=True))
def test_an_entry_of_a_repeated_sentence_has_the_similarity_to_its_last_repetition(
    view: CacheView,
) -> None:
    scores = SentenceRedundancy(threshold=0.95).score(view)
    for r, h, slot in view.occupied.nonzero().tolist():
        table = view.sentences[int(view.sequences[r])]
        position = int(view.positions[r, h, slot])
        sentence = sum(end <= position for end in table.ends.tolist())
        expected = 0.0
        for later in range(sentence + 1, len(table)):
            similarity = float(table.embeddings[sentence] @ table.embeddings[later])
            if similarity > 0.95:
                expected = similarity
        torch.testing.assert_close(float(scores[r, h, slot]), expected)


@pytest.mark.parametrize("threshold", [0, 1, -0.5, 1.5])
def test_a_threshold_that_is_no_similarity_is_refused(threshold: float) -> None:
    with pytest.raises(ConfigError, match=rf"threshold={threshold}\) must lie in \(0, 1\)"):
        SentenceRedundancy(threshold=threshold)


@settings(max_examples=80, deadline=None)
@given(view=cache_views())
def test_normalized_values_span_zero_to_one_in_every_head(view: CacheView) -> None:
    plain, scores = KeyNorm().score(view), KeyNorm().normalized().score(view)
    rows, heads, _ = view.positions.shape
    for r in range(rows):
        for h in range(heads):
            occupied = view.occupied[r, h]
            if not occupied.any():
                continue
            low, high = plain[r, h][occupied].aminmax()
            expected = torch.zeros(int(occupied.sum()))
            if high > low:
                expected = (plain[r, h][occupied] - low) / (high - low)
            torch.testing.assert_close(scores[r, h][occupied], expected)


@settings(max_examples=20, deadline=None)
@given(view=cache_views())
def test_a_constant_is_normalized_to_zero(view: CacheView) -> None:
    constant = attrs.evolve(view, keys=torch.ones_like(view.keys))
    assert (KeyNorm().normalized().score(constant) == 0).all()


def test_normalized_needs_what_its_scorer_needs() -> None:
    assert Normalized(scorer=WindowAttention(window=3)).needs == Needs(queries=3)
