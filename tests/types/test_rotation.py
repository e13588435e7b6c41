"""Keys turned by their positions and back."""

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from skipkv import CacheView, Rotation
from skipkv.testing.strategies import cache_views, rotations

modest = settings(max_examples=60, deadline=None)


@modest
@given(rotation=rotations(dim=st.integers(1, 8)), seed=st.integers(0, 99))
def test_turning_back_gives_the_vectors(rotation: Rotation, seed: int) -> None:
    random = torch.Generator().manual_seed(seed)
    vectors = torch.randn(3, 20, 8, generator=random)
    positions = torch.randint(0, 5000, (3, 20), generator=random)
    back = rotation.unrotated(rotation.rotated(vectors, positions), positions)
    torch.testing.assert_close(back, vectors)
    again = rotation.rotated(rotation.unrotated(vectors, positions), positions)
    torch.testing.assert_close(again, vectors)


@modest
@given(data=st.data())
def test_pairs_are_complex_numbers_times_a_power_of_i(data: Any) -> None:
    rotation = data.draw(rotations(dim=8))
    position = data.draw(st.integers(0, 300))
    vector = torch.arange(1.0, 9.0)
    turned = rotation.rotated(vector[None], torch.tensor([position]))[0]
    pairs = rotation.frequencies.shape[0]
    expected = vector.tolist()
    for i, frequency in enumerate(rotation.frequencies.double().tolist()):
        pair = complex(vector[i], vector[pairs + i])
        angle = torch.tensor(position * frequency, dtype=torch.float64)
        pair *= rotation.scaling * complex(float(angle.cos()), float(angle.sin()))
        expected[i], expected[pairs + i] = pair.real, pair.imag
    torch.testing.assert_close(turned, torch.tensor(expected), atol=1e-3, rtol=1e-4)


@modest
@given(view=cache_views(rotary=True))
def test_a_views_keys_before_the_rotation_are_its_keys_after_it(view: CacheView) -> None:
    before = view.unrotated_keys
    assert before.dtype == torch.float32
    assert (before[~view.occupied] == 0).all()
    assert view.rotation is not None
    after = view.rotation.rotated(before, view.positions)
    torch.testing.assert_close(after[view.occupied], view.keys[view.occupied])
    copy = before.clone()
    before.zero_()  # the tensor is its reader's own
    assert torch.equal(view.unrotated_keys, copy)


@given(view=cache_views())
@settings(max_examples=1)
def test_without_a_rotation_the_need_is_named(view: CacheView) -> None:
    with pytest.raises(ValueError, match=r"needs = Needs\(rotary=True\)"):
        _ = view.unrotated_keys
