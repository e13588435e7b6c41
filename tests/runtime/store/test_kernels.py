"""Ways to attend with one query per row, against a loop in float64; and the choice among them."""

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from skipkv.runtime.store import kernels


def inputs(batch: int, heads: int, groups: int, slots: int, seed: int) -> tuple[Any, ...]:
    random = torch.Generator().manual_seed(seed)
    query = torch.randn(batch, heads, groups, 4, generator=random)
    key, value = torch.randn(2, batch, heads, slots, 4, generator=random).unbind()
    lengths = torch.randint(1, slots + 1, (batch, heads), generator=random)
    empty = torch.arange(slots) >= lengths[..., None]
    bias = torch.zeros(batch, heads, slots).masked_fill(empty, -torch.inf)[:, :, None]
    return query, key, value, bias, lengths, 0.5


@pytest.mark.parametrize("name", ["sdpa", "matmul"])
@settings(max_examples=30)
@given(
    batch=st.integers(1, 3),
    heads=st.integers(1, 3),
    groups=st.integers(1, 3),
    slots=st.integers(1, 9),
    seed=st.integers(0, 99),
)
def test_a_head_attends_to_its_own_entries(
    name: str, batch: int, heads: int, groups: int, slots: int, seed: int
) -> None:
    query, key, value, bias, lengths, scale = inputs(batch, heads, groups, slots, seed)
    found = kernels.CANDIDATES[name](query, key, value, bias, lengths, scale)
    for b in range(batch):
        for h in range(heads):
            held = slice(int(lengths[b, h]))
            for g in range(groups):
                logits = key[b, h, held].double() @ query[b, h, g].double() * scale
                expected = logits.softmax(dim=0) @ value[b, h, held].double()
                assert torch.allclose(found[b, h, g].double(), expected, atol=1e-5)


def wrong(*args: Any) -> Tensor:
    return kernels.sdpa(*args) + 1


def missing(*args: Any) -> Tensor:
    raise RuntimeError("not built for this device")


def choice(**extra: Any) -> str:
    """The choice where every further candidate takes half the time of the one before."""
    times = iter([8.0, 4.0, 2.0, 1.0])
    return kernels.fastest(
        [(torch.zeros(2, 3, 16, 8), torch.zeros(2, 3, 16, 8))],
        groups=2,
        candidates={"sdpa": kernels.sdpa, **extra},
        seconds=lambda call: (call(), next(times))[1],
    )


def test_the_fastest_that_works_and_agrees_is_chosen() -> None:
    assert choice() == "sdpa"
    assert choice(matmul=kernels.matmul) == "matmul"
    assert choice(matmul=kernels.matmul, wrong=wrong, missing=missing) == "matmul"
    assert choice(wrong=wrong, missing=missing) == "sdpa"


def test_candidates_are_really_timed() -> None:
    layers = list(torch.randn(3, 2, 1, 1, 8, 4).unbind())
    pairs = [(keys, values) for keys, values in layers]
    assert kernels.fastest(pairs, groups=1) in kernels.CANDIDATES


def test_a_trial_says_why_a_way_cannot_be_taken() -> None:
    found = kernels.trial(
        [(torch.zeros(2, 3, 16, 8), torch.zeros(2, 3, 16, 8))],
        groups=2,
        candidates={"sdpa": kernels.sdpa, "wrong": wrong, "missing": missing},
    )
    assert isinstance(found["sdpa"], float)
    assert found["wrong"] == "its result differs from that of sdpa"
    assert found["missing"] == "RuntimeError: not built for this device"
