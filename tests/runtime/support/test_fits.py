"""Numbers that were learned of one model are not used with another one without a word."""

import warnings
from pathlib import Path
from typing import Any

import attrs
import pytest
import torch

import skipkv
from skipkv import Engine, Policy, presets, tiny
from skipkv.errors import ConfigError, SkipKVWarning
from skipkv.models import imprint_of
from skipkv.runtime.support.rotary import rotation_of
from skipkv.scorers import QueryStatistics, WriteGate
from skipkv.steerers import AdaptiveSteerer, AdditiveSteerer, SteeringVector
from skipkv.testing import toy_model, toy_tokenizer


def trained(seed: int) -> Any:
    """A toy model whose last norm is its own."""
    model = toy_model()
    weights = 1 + 0.3 * torch.randn(64, generator=torch.Generator().manual_seed(seed))
    with torch.no_grad():
        model.base_model.norm.weight.copy_(weights)
    return model


MODEL = trained(0)
VECTOR = SteeringVector(vector=torch.ones(64), layer=1, model="toy", imprint=imprint_of(MODEL))
GATE = WriteGate(
    outer=torch.ones(2, 64, 2), outer_bias=torch.zeros(2, 2), model="toy", imprint=imprint_of(MODEL)
)
STATISTICS = QueryStatistics(
    mean=torch.ones(2, 2, 2, 16),
    length=torch.ones(2, 2, 2, 8),
    frequencies=rotation_of(MODEL).frequencies,
    tokens=1,
    model="toy",
    imprint=imprint_of(MODEL),
)
LEARNED = {
    "adaptive": Policy(steerer=AdaptiveSteerer(VECTOR)),
    "additive": Policy(steerer=AdditiveSteerer(VECTOR)),
    "kvzap": presets.kvzap(32, gate=GATE),
    "trimkv": presets.trimkv(32, gate=GATE),
    "triattention": presets.triattention(64, queries=STATISTICS),
}


@pytest.fixture(params=LEARNED)
def policy(request: pytest.FixtureRequest) -> Policy:
    return LEARNED[request.param]


@pytest.mark.parametrize("way", ["Engine", "attach"])
def test_another_model_of_the_same_shape_is_warned_of(policy: Policy, way: str) -> None:
    def use(model: Any) -> None:
        if way == "Engine":
            Engine(model, toy_tokenizer(), policy)
        else:
            with skipkv.attach(model, policy, tokenizer=toy_tokenizer()):
                model.generate(torch.tensor([[5, 6]]), max_new_tokens=1)

    with pytest.warns(
        SkipKVWarning, match=r"was made for toy, which has the same shape .* other w"
    ):
        use(trained(1))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        use(MODEL)
        if policy.needs.model is not None and policy.needs.model.frequencies is None:
            use(trained(0).bfloat16())  # rounds the rotation's frequencies too
            use(trained(0).half())


def test_numbers_of_an_unknown_model_are_taken_as_they_are() -> None:
    policy = Policy(steerer=AdaptiveSteerer(attrs.evolve(VECTOR, imprint=None)))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        Engine(trained(1), toy_tokenizer(), policy)


def test_parts_of_two_models_do_not_make_a_policy() -> None:
    other = attrs.evolve(VECTOR, imprint=imprint_of(trained(1)), model="other")
    with pytest.raises(ConfigError, match="made for different models, toy and other: other weight"):
        presets.kvzap(32, gate=GATE).with_(steerer=AdaptiveSteerer(other))


@pytest.mark.parametrize("learned", [VECTOR, GATE, STATISTICS], ids=lambda one: type(one).__name__)
def test_a_file_says_of_which_weights_it_is(learned: Any, tmp_path: Path) -> None:
    path = tmp_path / "learned.safetensors"
    for one in (learned, attrs.evolve(learned, imprint=None)):
        one.save(path)
        again = type(learned).load(path)
        assert again == one
        assert again.imprint == one.imprint


def test_fine_tuned_weights_leave_another_imprint_and_rounded_ones_do_not() -> None:
    shape = VECTOR.shape
    tuned = trained(0)
    with torch.no_grad():
        tuned.base_model.norm.weight[3] *= 1.01
    for model, same in ((trained(0).bfloat16(), True), (tuned, False)):
        assert shape.has_weights_of(attrs.evolve(shape, imprint=imprint_of(model))) is same
    assert not shape.has_weights_of(attrs.evolve(shape, imprint=(1.0,)))
    nearly_zero = attrs.evolve(shape, imprint=(2.0, 1e-7))
    assert nearly_zero.has_weights_of(attrs.evolve(shape, imprint=(2.0, 0.0)))


def test_the_embedded_models_know_their_own_files() -> None:
    model, tokenizer = tiny.load(device="cpu")
    weights = Path(tiny.__file__).parent / "weights"
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        Engine(model, tokenizer, presets.kvzap(64, gate=weights / "kvzap.safetensors"))
        Engine(model, tokenizer, presets.trimkv(64, gate=weights / "trimkv.safetensors"))
    for kind, name in ((SteeringVector, "steering"), (QueryStatistics, "queries")):
        assert kind.load(weights / f"{name}.safetensors").imprint == imprint_of(model)  # type: ignore[attr-defined]
