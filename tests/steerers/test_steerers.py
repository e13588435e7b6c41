"""The steerers that add a vector."""

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from skipkv import Engine, presets
from skipkv._types import Needs, SteeringContext, needs_of
from skipkv.errors import ConfigError
from skipkv.steerers import AdaptiveSteerer, AdditiveSteerer, Steerer, SteeringVector
from skipkv.testing import toy_model, toy_tokenizer

modest = settings(max_examples=60, deadline=None)
NUMBERS = st.floats(-3, 3, width=16)
ROW = st.tuples(st.booleans(), st.booleans(), *[st.integers(0, 5)] * 3)


def vector(width: int = 4, layer: int = 1) -> SteeringVector:
    return SteeringVector(vector=torch.arange(1.0, width + 1), layer=layer)


def context(rows: list[Any]) -> SteeringContext:
    return SteeringContext(
        at_delimiter=torch.tensor([row[0] for row in rows]),
        thinking=torch.tensor([row[1] for row in rows]),
        thoughts=torch.tensor([row[2:] for row in rows]),
        positions=torch.arange(len(rows)),
    )


@modest
@given(rows=st.lists(ROW, min_size=1, max_size=5), strength=NUMBERS, growth=NUMBERS)
def test_a_row_gets_its_strength_times_the_vector_where_a_thought_opens(
    rows: Any, strength: float, growth: float
) -> None:
    steerer = AdaptiveSteerer(vector(), strength=strength, growth=growth)
    delta = steerer.delta(torch.zeros(len(rows), 4), context(rows))
    for (ends, thinks, _, reflections, transitions), got in zip(rows, delta, strict=True):
        alpha = strength + growth * (reflections + transitions)
        expected = [alpha * x if ends and thinks else 0.0 for x in (1.0, 2.0, 3.0, 4.0)]
        assert got.tolist() == pytest.approx(expected, rel=1e-5, abs=1e-5)


@modest
@given(rows=st.lists(ROW, min_size=1, max_size=5), strength=NUMBERS)
def test_without_growth_the_adaptive_steerer_is_the_additive_one(
    rows: Any, strength: float
) -> None:
    hidden, where = torch.zeros(len(rows), 4), context(rows)
    adaptive = AdaptiveSteerer(vector(), strength=strength, growth=0)
    fixed = AdditiveSteerer(vector(), strength=strength)
    assert torch.equal(adaptive.delta(hidden, where), fixed.delta(hidden, where))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize(("ends", "thinks", "strength"), [(0, 1, 2.0), (1, 0, 2.0), (1, 1, 0.0)])
def test_what_is_not_steered_stays_what_it_was(dtype: Any, ends: int, thinks: int, strength: Any):
    hidden = torch.tensor([[-0.0, 0.0, 1.5, -2.0]], dtype=dtype)
    where = context([(bool(ends), bool(thinks), 0, 0, 0)])
    for steerer in (
        AdditiveSteerer(vector(), strength=strength),
        AdaptiveSteerer(vector(), strength=strength, growth=0.5),
    ):
        delta = steerer.delta(hidden, where)
        assert delta.dtype == dtype
        assert torch.equal(hidden + delta, hidden)


def test_thoughts_are_recorded_only_where_the_strength_grows() -> None:
    of = vector().shape
    assert AdaptiveSteerer(vector()).needs == Needs(sentences=True, model=of)
    assert AdaptiveSteerer(vector(), growth=0).needs == Needs(model=of)
    assert needs_of(AdditiveSteerer(vector())) == Needs(model=of)


def test_steerers_have_the_shape_of_the_protocol_and_say_what_they_are() -> None:
    for steerer in (AdditiveSteerer(vector()), AdaptiveSteerer(vector())):
        assert isinstance(steerer, Steerer)
        assert (steerer.layer, steerer.width) == (1, 4)
    assert repr(AdditiveSteerer(vector(), strength=2)) == (
        "AdditiveSteerer(vector=<SteeringVector of 4 numbers for layer 1>, strength=2)"
    )


@pytest.mark.parametrize("value", [float("nan"), float("inf"), "1", None, True])
def test_a_strength_that_is_no_finite_number_is_refused(value: Any) -> None:
    with pytest.raises(ConfigError, match=r"AdditiveSteerer\(strength=.* must be a finite number"):
        AdditiveSteerer(vector(), strength=value)
    with pytest.raises(ConfigError, match=r"AdaptiveSteerer\(growth=.* must be a finite number"):
        AdaptiveSteerer(vector(), growth=value)


def test_a_bare_tensor_is_no_steering_vector() -> None:
    with pytest.raises(ConfigError, match=r"must be a SteeringVector, got a Tensor.*load\(path\)"):
        AdditiveSteerer(torch.ones(4))  # type: ignore[arg-type]


PROMPTS = ["one<think>x.\n\n", "two<think>"]


def decoded(steerer: Any, *, text: str = "") -> list[Any]:
    model = toy_model(layers=3)
    # steering finds places, and it is the prompt alone that opens and closes the think block
    with torch.no_grad():
        model.lm_head.weight[8:12] *= 2.0
        model.lm_head.weight[3:5] = 0
    policy = presets.skipkv(32, interval=8, steering=steerer)
    engine = Engine(model, toy_tokenizer(), policy, batch_size=2)
    completions = engine.generate([p + text for p in PROMPTS], max_new_tokens=48)
    return [completion.tokens for completion in completions]


def test_strength_zero_decodes_as_without_steering_and_a_large_one_does_not() -> None:
    wide = SteeringVector(vector=torch.randn(64, generator=torch.manual_seed(0)), layer=1)
    plain = decoded(None)
    assert decoded(AdaptiveSteerer(wide, strength=0, growth=0)) == plain
    assert decoded(AdditiveSteerer(wide, strength=0)) == plain
    assert decoded(AdditiveSteerer(wide, strength=20)) != plain
    # outside of the think block nothing is steered
    assert decoded(AdditiveSteerer(wide, strength=20), text="</think>") == decoded(
        None, text="</think>"
    )


@pytest.mark.parametrize(
    ("width", "layer", "message"),
    [(31, 1, r"a vector of 31 numbers.*hidden states have 64"), (64, 3, r"layers are 0 to 2")],
)
def test_a_vector_that_does_not_fit_the_model_is_refused(
    width: int, layer: int, message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        Engine(toy_model(layers=3), toy_tokenizer(), presets.seal(vector(width=width, layer=layer)))


def test_presets_steer_as_they_say() -> None:
    assert presets.seal(vector(), strength=0.5).steerer == AdditiveSteerer(vector(), strength=0.5)
    assert presets.seal(vector()).budget is None
    under = presets.seal(vector(), budget=64)
    assert under == presets.rkv(64).with_(steerer=AdditiveSteerer(vector()))
    assert presets.skipkv(64, steering=AdaptiveSteerer(vector())).steerer == AdaptiveSteerer(
        vector()
    )
