"""Near-copies by matrix products against a loop in float64; on a CPU, in every dtype."""

from typing import Any

import attrs
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from skipkv._types import CacheView
from skipkv.scorers import KeyRedundancy
from skipkv.scorers._near_copies import near_copies
from skipkv.scorers.key_redundancy import held_against
from skipkv.testing.strategies import cache_views

DTYPES = [torch.float32, torch.bfloat16, torch.float16]


def reference(keys: Any, empty: Any, threshold: float, keep: str) -> list[list[int]]:
    unit = keys.double() / (keys.double().norm(dim=-1, keepdim=True) + 1e-8)
    similar = unit @ unit.mT
    found = []
    for head in range(len(keys)):
        row = []
        for i in range(keys.shape[1]):
            near = [
                j
                for j in range(keys.shape[1])
                if j != i and not (empty[head, i] or empty[head, j])
                if similar[head, i, j] > threshold
            ]
            row.append((near or [0])[-1 if keep == "last" else 0])
        found.append(row)
    return found


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@settings(max_examples=60, deadline=None)
@given(
    heads=st.integers(1, 4),
    slots=st.integers(1, 21),
    size=st.integers(1, 9),
    threshold=st.sampled_from([0.0, 0.3, 0.5, 0.9]),
    keep=st.sampled_from(["last", "first"]),
    scratch=st.sampled_from([1, 200, 2**20]),
    seed=st.integers(0, 999),
    scale=st.sampled_from([1e-3, 1.0, 300.0]),
)
def test_a_key_finds_its_near_copy(
    dtype: torch.dtype,
    heads: int,
    slots: int,
    size: int,
    threshold: float,
    keep: str,
    scratch: int,
    seed: int,
    scale: float,
) -> None:
    random = torch.Generator().manual_seed(seed)
    keys = (scale * torch.randn(heads, slots, size, generator=random)).to(dtype)
    empty = torch.rand(heads, slots, generator=random) < 0.2
    norms = (keys.double().norm(dim=-1) + 1e-8).float().masked_fill(empty, 0)
    unit = keys.double() / norms.double().clamp_min(1e-30)[..., None]
    assume(((unit @ unit.mT - threshold).abs() > 1e-5).all())  # no tie to round
    found = near_copies(keys, norms, threshold, keep=keep, scratch=scratch)
    assert found.tolist() == reference(keys, empty, threshold, keep)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@settings(max_examples=60, deadline=None)
@given(view=cache_views(), keep=st.sampled_from(["last", "first"]))
def test_an_accelerator_s_way_gives_a_cpu_s_scores(
    view: CacheView, dtype: torch.dtype, keep: str
) -> None:
    view = attrs.evolve(view, keys=view.keys.to(dtype))
    keys, empty = view.keys.flatten(0, 1), ~view.occupied.flatten(0, 1)
    unit = keys.double() / (keys.double().norm(dim=-1, keepdim=True) + 1e-8)
    assume(((unit @ unit.mT - 0.5).abs() > 1e-5).all())
    sums = held_against(keys, empty, 0.5, keep=keep)
    mean = sums / (~empty).sum(dim=-1, keepdim=True).clamp_min(1)
    found = mean.masked_fill(empty, torch.finfo(torch.float32).min).softmax(dim=-1)
    expected = KeyRedundancy(threshold=0.5, keep=keep).score(view)
    torch.testing.assert_close(found.view_as(expected), expected)
