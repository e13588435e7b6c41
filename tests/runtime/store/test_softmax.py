"""Soft-capping and sinks, against a loop over entries in float64."""

import math

import pytest
import torch

from skipkv.runtime.store.softmax import Softmax, observed


@pytest.mark.parametrize("softcap", [None, 3.0])
@pytest.mark.parametrize("sinks", [False, True])
@pytest.mark.parametrize("axes", [(1, 2, 3, 5), (1, 2, 3, 4, 5)])
def test_weights_are_those_of_a_loop(
    softcap: float | None, sinks: bool, axes: tuple[int, ...]
) -> None:
    torch.manual_seed(0)
    logits = 4 * torch.randn(axes)
    sink = torch.randn(6) if sinks else None
    softmax = Softmax(softcap=softcap, sinks=sink)
    assert softmax.plain == (softcap is None and not sinks)
    hidden = torch.zeros(axes[-1], dtype=torch.bool)
    hidden[3] = True
    found = softmax.weights(softmax.cap(logits).masked_fill(hidden, -torch.inf))
    assert found.shape == logits.shape
    for place in torch.cartesian_prod(*(torch.arange(n) for n in axes[:-1])).tolist():
        seen = [0.0 if h else 1.0 for h in hidden.tolist()]
        capped = logits[tuple(place)].tolist()
        if softcap is not None:
            capped = [softcap * math.tanh(x / softcap) for x in capped]
        shares = [s * math.exp(x) for s, x in zip(seen, capped, strict=True)]
        head = place[1] * axes[2] + place[2]
        whole = sum(shares) + (0.0 if sink is None else math.exp(float(sink[head])))
        assert found[tuple(place)].tolist() == pytest.approx([s / whole for s in shares])


def test_parts_that_divide_by_the_root_of_the_head_size_get_the_models_logits() -> None:
    query, key = torch.randn(3, 16), torch.randn(5, 16)
    logits = observed(query, 0.7) @ key.T / 16**0.5
    assert torch.allclose(logits, query @ key.T * 0.7, atol=1e-6)
    assert observed(query, 16**-0.5) is query
