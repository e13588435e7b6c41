import math

import attrs
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from skipkv._types import CacheView, Rotation
from skipkv.benchmark.live_memory import peak_bytes
from skipkv.errors import ConfigError
from skipkv.scorers import KeyRedundancy
from skipkv.testing.strategies import cache_views


def reference(keys: torch.Tensor, threshold: float, keep: str) -> list[float]:
    """The formula for the entries of one row and head, in float64."""
    count = keys.shape[0]
    unit = [key / (key.norm() + 1e-8) for key in keys.double()]
    total = [0.0] * count
    for i in range(count):
        similarity = [0.0 if i == j else float(unit[i] @ unit[j]) for j in range(count)]
        assume(all(abs(value - threshold) > 1e-5 for value in similarity))  # no tie to round
        copies = [j for j in range(count) if similarity[j] > threshold] or [0]
        similarity[copies[-1 if keep == "last" else 0]] = 0.0
        total = [a + b for a, b in zip(total, similarity, strict=True)]
    weights = [math.exp(value / count) for value in total]
    return [weight / sum(weights) for weight in weights]


@settings(max_examples=100, deadline=None)
@given(
    view=cache_views(),
    threshold=st.sampled_from([0.0, 0.3, 0.5, 0.9]),
    keep=st.sampled_from(["last", "first"]),
    tile=st.integers(1, 20),
)
def test_it_equals_the_formula_written_out(
    view: CacheView, threshold: float, keep: str, tile: int
) -> None:
    scores = KeyRedundancy(threshold=threshold, keep=keep, tile=tile).score(view)
    rows, heads, _ = view.positions.shape
    for r in range(rows):
        for h in range(heads):
            occupied = view.occupied[r, h]
            expected = reference(view.keys[r, h][occupied], threshold, keep)
            expected = torch.tensor(expected, dtype=torch.float64)
            torch.testing.assert_close(scores[r, h][occupied].double(), expected)


@settings(max_examples=60, deadline=None)
@given(view=cache_views(rotary=True), keep=st.sampled_from(["last", "first"]))
def test_unrotated_it_compares_keys_as_they_were_before_their_rotation(
    view: CacheView, keep: str
) -> None:
    before = attrs.evolve(view, keys=view.unrotated_keys, rotation=None)
    scores = KeyRedundancy(keep=keep, unrotated=True).score(view)
    assert torch.equal(scores, KeyRedundancy(keep=keep).score(before))


def test_unrotated_a_token_is_redundant_however_far_away_it_is_repeated() -> None:
    """One key at three positions, a quarter of a turn apart: after the rotation no two are near."""
    rotation = Rotation(frequencies=torch.tensor([torch.pi / 1000]))
    positions = torch.tensor([0, 500, 1000])
    keys = rotation.rotated(torch.tensor([1.0, 0.0]).expand(3, 2), positions)[None, None]
    view = CacheView(
        keys=keys,
        values=keys,
        positions=positions[None, None],
        protected=torch.zeros(1, 1, 3, dtype=torch.bool),
        seen=torch.tensor([1001]),
        sequences=torch.tensor([0]),
        rotation=rotation,
    )
    oldest, middle, newest = KeyRedundancy(unrotated=True).score(view)[0, 0].tolist()
    assert oldest > middle + 0.05 > newest + 0.1
    oldest, middle, _ = KeyRedundancy().score(view)[0, 0].tolist()
    assert oldest == pytest.approx(middle)


@pytest.mark.parametrize(("keep", "cheapest"), [("last", 2), ("first", 0)])
def test_of_three_copies_the_newest_or_the_oldest_is_cheapest(keep: str, cheapest: int) -> None:
    keys = torch.tensor([[1.0, 0, 0], [1, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, 1]])
    view = CacheView(
        keys=keys[None, None],
        values=keys[None, None],
        positions=torch.arange(5)[None, None],
        protected=torch.zeros(1, 1, 5, dtype=torch.bool),
        seen=torch.tensor([5]),
        sequences=torch.tensor([0]),
    )
    scores = KeyRedundancy(keep=keep).score(view)[0, 0]
    assert int(scores[:3].argmin()) == cheapest
    assert scores[:3].max() > scores[3:].max()


def long_view(slots: int) -> CacheView:
    """Three heads of keys of 64 numbers, and nothing else of interest."""
    return CacheView(
        keys=torch.randn(1, 3, slots, 64),
        values=torch.zeros(1, 3, slots, 64),
        positions=torch.arange(slots).repeat(1, 3, 1),
        protected=torch.zeros(1, 3, slots, dtype=torch.bool),
        seen=torch.tensor([slots]),
        sequences=torch.tensor([0]),
    )


@pytest.mark.parametrize("slots", [576, 1152, 4608])
def test_it_needs_at_most_twice_the_memory_of_the_keys(slots: int) -> None:
    view = long_view(slots)
    assert peak_bytes(lambda: KeyRedundancy().score(view)) <= 2 * view.keys.nbytes


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"threshold": -0.1}, r"threshold=-0.1\) must lie in \[0, 1\)"),
        ({"threshold": 1.0}, r"threshold=1.0\) must lie"),
        ({"keep": "newest"}, r"keep='newest'\) must be 'last' or 'first'"),
        ({"tile": 0}, r"tile=0\) must be at least 1"),
    ],
    ids=str,
)
def test_values_out_of_range_are_refused(arguments: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        KeyRedundancy(**arguments)
