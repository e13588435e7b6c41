"""The steerer that does nothing."""

import pytest
import torch

from skipkv._types import SteeringContext, needs_of
from skipkv.steerers import NoSteering, Steerer


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_it_adds_nothing_even_at_a_delimiter(dtype: torch.dtype) -> None:
    hidden = torch.full((2, 3), torch.nan, dtype=dtype)
    context = SteeringContext(
        at_delimiter=torch.tensor([True, False]),
        thinking=torch.tensor([True, True]),
        thoughts=torch.ones(2, 3, dtype=torch.long),
        positions=torch.tensor([5, 9]),
    )
    delta = NoSteering().delta(hidden, context)
    assert delta.dtype == dtype
    assert torch.equal(delta, torch.zeros(2, 3, dtype=dtype))


def test_it_steers_no_layer_and_needs_nothing_recorded() -> None:
    assert NoSteering().layer is None
    assert needs_of(NoSteering()) == needs_of(object())


def test_it_has_the_shape_of_the_protocol() -> None:
    assert isinstance(NoSteering(), Steerer)
    assert repr(NoSteering()) == "NoSteering()"
