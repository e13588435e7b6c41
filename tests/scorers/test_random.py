import attrs
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from skipkv._types import CacheView
from skipkv.scorers import Random
from skipkv.testing.strategies import cache_views


def noise(
    seed: int, heads: int, tokens: int, *, seen: int | None = None, layer: int = 0, fresh: bool
) -> torch.Tensor:
    """Of the first `tokens` positions, [heads, tokens]."""
    view = CacheView(
        keys=torch.zeros(1, heads, tokens, 1),
        values=torch.zeros(1, heads, tokens, 1),
        positions=torch.arange(tokens).expand(1, heads, tokens),
        protected=torch.zeros(1, heads, tokens, dtype=torch.bool),
        seen=torch.tensor([seen or tokens]),
        sequences=torch.tensor([0]),
        layers=torch.tensor([layer]),
    )
    return Random(seed=seed, fresh=fresh).score(view)[0]


@settings(max_examples=60, deadline=None)
@given(view=cache_views(), seed=st.integers(-(2**40), 2**40))
def test_unless_fresh_an_entry_has_one_value_for_ever(view: CacheView, seed: int) -> None:
    """It follows from seed, head and position, whatever else the cache holds, at any event."""
    table = noise(seed, view.positions.shape[1], int(view.seen.max()), fresh=False)
    later = attrs.evolve(
        view, seen=view.seen + 100, keys=view.keys + 1, layers=view.layers + 1, depth=9
    )
    for _, head, position, first, second in zip(
        *view.occupied.nonzero().T[:2].tolist(),
        view.positions[view.occupied].tolist(),
        Random(seed=seed, fresh=False).score(view)[view.occupied].tolist(),
        Random(seed=seed, fresh=False).score(later)[view.occupied].tolist(),
        strict=True,
    ):
        assert first == second == float(table[head, position])


@settings(max_examples=60, deadline=None)
@given(view=cache_views(), seed=st.integers(-(2**40), 2**40))
def test_fresh_noise_follows_from_layer_head_position_and_tokens_seen(
    view: CacheView, seed: int
) -> None:
    scores = Random(seed=seed).score(attrs.evolve(view, keys=view.keys + 1))
    for row, head, slot in view.occupied.nonzero().tolist():
        seen, layer = int(view.seen[row]), int(view.layers[row])
        table = noise(seed, head + 1, seen, seen=seen, layer=layer, fresh=True)
        assert scores[row, head, slot] == table[head, view.positions[row, head, slot]]


def test_fresh_noise_of_two_layers_or_events_is_uncorrelated() -> None:
    plain, later, deeper = (
        noise(0, 4, 4096, seen=seen, layer=layer, fresh=True).double() - 0.5
        for seen, layer in [(4096, 0), (4112, 0), (4096, 1)]
    )
    for other in (later, deeper):  # the standard deviation of the mean is below 0.001
        assert (plain * other).mean().abs() < 0.006


@pytest.mark.parametrize("fresh", [False, True])
@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 2**31))
def test_it_is_roughly_uniform_and_uncorrelated(seed: int, fresh: bool) -> None:
    values = noise(seed, 4, 4096, fresh=fresh).double()
    assert values.min() >= 0
    assert values.max() < 1
    counts = torch.histc(values, bins=16, min=0, max=1)
    expected = values.numel() / 16
    assert ((counts - expected) ** 2 / expected).sum() < 60  # chi-square, 15 degrees of freedom
    centred = values - 0.5
    # neighbours in position and in head; the standard deviation of each mean is below 0.001
    assert (centred[:, 1:] * centred[:, :-1]).mean().abs() < 0.006
    assert (centred[1:] * centred[:-1]).mean().abs() < 0.006


@pytest.mark.parametrize("fresh", [False, True])
def test_seeds_and_heads_differ(fresh: bool) -> None:
    assert not torch.equal(noise(0, 2, 64, fresh=fresh), noise(1, 2, 64, fresh=fresh))
    first, second = noise(0, 2, 64, fresh=fresh)
    assert not torch.equal(first, second)
