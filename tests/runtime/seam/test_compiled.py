"""Decoder layers compiled for decode steps: the same tokens, layers as they were, and reasons."""

import shutil
from collections.abc import Callable
from typing import Any

import pytest
import torch

from skipkv import Engine, Policy, presets
from skipkv.errors import ConfigError, SkipKVWarning
from skipkv.runtime.seam.compiled import compiled_layers
from skipkv.scorers import WriteGate
from skipkv.steerers import AdaptiveSteerer, AdditiveSteerer, SteeringVector
from skipkv.testing import toy_model, toy_tokenizer

PROMPTS = ["one plus two", "a", "wait so three plus four is seven", "two"]


def steered(hidden_size: int) -> Policy:
    vector = SteeringVector(vector=torch.linspace(-1, 1, hidden_size), layer=1, model="toy")
    steering = AdaptiveSteerer(vector, strength=2.0, growth=0.5)
    return presets.skipkv(24, threshold=0.5, interval=8, steering=steering)


RANDOM = torch.Generator().manual_seed(1)
GATE = WriteGate(
    outer=torch.randn(3, 64, 2, generator=RANDOM) / 8, outer_bias=torch.zeros(3, 2), model="toy"
)
POLICIES = {
    "full": presets.full(),
    "h2o": presets.h2o(24, interval=8),
    "rkv": presets.rkv(24, interval=8),
    "skipkv": steered(toy_model().config.hidden_size),
    "trimkv": presets.trimkv(24, gate=GATE, interval=8),
}


def decode(model: Any, policy: Policy, **options: Any) -> list[Any]:
    """Sequences of different lengths end, and others begin, in three slots."""
    engine = Engine(model, toy_tokenizer(), policy, batch_size=3, **options)
    completions = engine.generate(PROMPTS, max_new_tokens=30, trace=True)
    return [
        (c.tokens, c.stop_reason, [e.kept.tolist() for e in c.trace or ()]) for c in completions
    ]


def model() -> Any:
    return toy_model("qwen2", layers=3, eos=True, seed=3)


@pytest.mark.filterwarnings("error::skipkv.errors.SkipKVWarning")
@pytest.mark.parametrize("name", POLICIES)
def test_compiled_layers_decode_and_keep_the_same(name: str) -> None:
    """With torch's tracer and no code generator: fast, and needs no compiler of a machine."""
    toy = toy_model(layers=3, eos=True, seed=3)
    expected = decode(toy, POLICIES[name], compile=False)
    assert decode(toy, POLICIES[name], compile="eager") == expected
    assert all("forward" not in vars(layer) for layer in toy.base_model.layers)


@pytest.mark.filterwarnings("error::skipkv.errors.SkipKVWarning")
def test_a_step_that_tries_compiled_layers_is_steered_each_time_it_is_done() -> None:
    toy = toy_model(seed=10)
    vector = SteeringVector(
        vector=torch.randn(64, generator=torch.Generator().manual_seed(1)), layer=1
    )
    policy = presets.rkv(24, interval=8).with_(steerer=AdditiveSteerer(vector, strength=5.0))
    plain, tried = (
        list(
            Engine(toy, toy_tokenizer(), policy, compile=compile).generate(
                ["<think>wait so"], max_new_tokens=20
            )
        )
        for compile in (False, "eager")
    )
    assert "\n\n" in toy_tokenizer().decode(plain[0].tokens[:1])  # the first step is steered
    assert tried[0].tokens == plain[0].tokens


@pytest.mark.slow
@pytest.mark.skipif(
    not (shutil.which("g++") or shutil.which("clang++")), reason="no C++ compiler here"
)
@pytest.mark.filterwarnings("error::skipkv.errors.SkipKVWarning")
@pytest.mark.parametrize("family", ["llama", "qwen2", "qwen3"])
def test_generated_code_decodes_the_same(family: Any) -> None:
    toy = toy_model(family, layers=3, eos=True, seed=3)
    expected = decode(toy, POLICIES["rkv"])
    assert decode(toy, POLICIES["rkv"], compile=True) == expected


def named(backend: Callable[..., Any]) -> str:
    """The name of a backend, which is registered then."""
    if backend.__name__ not in torch.compiler.list_backends(exclude_tags=()):
        torch._dynamo.register_backend(backend)
    return backend.__name__


def refusing(graph: Any, inputs: Any) -> Callable[..., Any]:
    raise RuntimeError("no code for this device")


def wrong(graph: Any, inputs: Any) -> Callable[..., Any]:
    """Adds one to all that is computed in floating point."""

    def run(*args: Any) -> Any:
        return [
            out + 1 if isinstance(out, torch.Tensor) and out.is_floating_point() else out
            for out in graph(*args)
        ]

    return run


@pytest.mark.parametrize("name", POLICIES)
@pytest.mark.parametrize(
    ("backend", "reason"), [(refusing, "no code for this device"), (wrong, "other logits")]
)
def test_where_compiling_fails_a_warning_says_why_and_nothing_else_changes(
    name: str, backend: Any, reason: str
) -> None:
    toy = toy_model(layers=3, eos=True, seed=3)
    expected = decode(toy, POLICIES[name])
    with pytest.warns(SkipKVWarning, match=f"not compiled: .*{reason}") as warned:
        assert decode(toy, POLICIES[name], compile=named(backend)) == expected
    assert len(warned) == 1
    assert all("forward" not in vars(layer) for layer in toy.base_model.layers)


def test_layers_with_a_forward_of_their_own_are_left_alone() -> None:
    toy = model()
    expected = decode(toy, POLICIES["rkv"])
    layer = toy.base_model.layers[1]
    own = layer.forward = layer.forward
    with pytest.warns(SkipKVWarning, match="a forward of its own"):
        assert decode(toy, POLICIES["rkv"], compile="eager") == expected
    assert layer.forward is own


def test_prompts_are_not_compiled() -> None:
    shapes = set()

    def watching(graph: Any, inputs: Any) -> Any:
        shapes.update(
            value.shape[1]
            for value in inputs
            if isinstance(value, torch.Tensor) and value.dim() == 3
        )
        return graph

    decode(model(), POLICIES["rkv"], compile=named(watching))
    assert shapes == {1}


def test_a_cpu_compiles_only_if_it_is_asked_to() -> None:
    assert compiled_layers(model(), "auto") is None
    assert compiled_layers(model(), False) is None
    assert compiled_layers(model(), True) is not None


@pytest.mark.parametrize("asked", ["always", 3, None])
def test_what_cannot_be_asked_for_is_refused(asked: Any, as_users_call: None) -> None:
    with pytest.raises(ConfigError, match=r"'auto' or a backend of torch\.compile"):
        Engine(model(), toy_tokenizer(), POLICIES["rkv"], compile=asked)
