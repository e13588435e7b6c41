import attrs
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from skipkv._types import CacheView
from skipkv.scorers import Random
from skipkv.testing.strategies import cache_views


def noise(seed: int, heads: int, tokens: int) -> torch.Tensor:
    """Of the first `tokens` positions, [heads, tokens]."""
    view = CacheView(
        keys=torch.zeros(1, heads, tokens, 1),
        values=torch.zeros(1, heads, tokens, 1),
        positions=torch.arange(tokens).expand(1, heads, tokens),
        protected=torch.zeros(1, heads, tokens, dtype=torch.bool),
        seen=torch.tensor([tokens]),
        sequences=torch.tensor([0]),
    )
    return Random(seed=seed).score(view)[0]


@settings(max_examples=60, deadline=None)
@given(view=cache_views(), seed=st.integers(-(2**40), 2**40))
def test_an_entry_has_one_value_for_ever(view: CacheView, seed: int) -> None:
    """It follows from seed, head and position, whatever else the cache holds, at any event."""
    table = noise(seed, view.positions.shape[1], int(view.seen.max()))
    later = attrs.evolve(view, seen=view.seen + 100, keys=view.keys + 1)
    for _, head, position, first, second in zip(
        *view.occupied.nonzero().T[:2].tolist(),
        view.positions[view.occupied].tolist(),
        Random(seed=seed).score(view)[view.occupied].tolist(),
        Random(seed=seed).score(later)[view.occupied].tolist(),
        strict=True,
    ):
        assert first == second == float(table[head, position])


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 2**31))
def test_it_is_roughly_uniform_and_uncorrelated(seed: int) -> None:
    values = noise(seed, 4, 4096).double()
    assert values.min() >= 0
    assert values.max() < 1
    counts = torch.histc(values, bins=16, min=0, max=1)
    expected = values.numel() / 16
    assert ((counts - expected) ** 2 / expected).sum() < 60  # chi-square, 15 degrees of freedom
    centred = values - 0.5
    # neighbours in position and in head; the standard deviation of each mean is below 0.001
    assert (centred[:, 1:] * centred[:, :-1]).mean().abs() < 0.006
    assert (centred[1:] * centred[:-1]).mean().abs() < 0.006


def test_seeds_and_heads_differ() -> None:
    assert not torch.equal(noise(0, 2, 64), noise(1, 2, 64))
    first, second = noise(0, 2, 64)
    assert not torch.equal(first, second)
