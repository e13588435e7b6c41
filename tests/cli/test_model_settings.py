"""What a model's folder says of policies: it holds where the command line says nothing."""

import json

import pytest
import torch

from skipkv.cli.steering import model_settings, steered_policy
from skipkv.errors import ConfigError, InputError
from skipkv.evictors import SentencePrimary
from skipkv.steerers import AdaptiveSteerer, AdditiveSteerer, NoSteering, SteeringVector


@pytest.fixture
def settings(tmp_path):
    SteeringVector(vector=torch.ones(4), layer=1).save(tmp_path / "v.safetensors")
    options = {
        "skipkv": {"budget": 60, "threshold": 0.7, "vector": "v.safetensors", "strength": 0.5},
        "rkv": {"budget": 50, "interval": 16},
        "seal": {"interval": 16, "vector": "v.safetensors"},
    }
    (tmp_path / "skipkv.json").write_text(json.dumps(options))
    return model_settings(str(tmp_path))


def test_a_preset_takes_what_it_is_not_told_from_the_model(settings):
    policy = steered_policy("skipkv", settings=settings)
    assert policy.budget.tokens == 60
    assert policy.evictor == SentencePrimary(threshold=0.7, whole=False)
    assert isinstance(policy.steerer, AdaptiveSteerer)
    assert (policy.steerer.strength, policy.steerer.growth) == (0.5, 0.02)


def test_what_is_told_wins(settings):
    policy = steered_policy(
        "skipkv", budget=99, interval=8, strength=2.0, growth=0.5, settings=settings
    )
    assert (policy.budget.tokens, policy.budget.interval) == (99, 8)
    assert (policy.steerer.strength, policy.steerer.growth) == (2.0, 0.5)


def test_a_preset_without_a_vector_does_not_steer(settings):
    policy = steered_policy("rkv", settings=settings)
    assert (policy.budget.tokens, policy.budget.interval) == (50, 16)
    assert policy.steerer == NoSteering()


def test_seal_steers_the_full_cache_or_rkv(settings):
    policy = steered_policy("seal", settings=settings)
    assert policy.budget is None
    assert isinstance(policy.steerer, AdditiveSteerer)
    assert steered_policy("seal", budget=40, settings=settings).budget.interval == 16


def test_a_policy_of_ones_own_gets_nothing_from_the_model(settings):
    with pytest.raises(ConfigError, match="needs a budget"):
        steered_policy("skipkv.presets:rkv", settings=settings)


def test_without_settings_a_preset_must_be_told(tmp_path):
    assert model_settings(str(tmp_path)) == {}
    assert model_settings("some/hub-id") == {}
    with pytest.raises(ConfigError, match="needs a budget"):
        steered_policy("skipkv", settings={})


def test_tiny_has_settings_for_every_preset_that_needs_some():
    from skipkv.presets import NAMES

    own = model_settings("tiny")
    assert set(own) == set(NAMES)
    for name in NAMES:
        steered_policy(name, settings=own)


@pytest.mark.parametrize("text", ["{", "[]", '{"rkv": 3}'])
def test_a_broken_file_is_named(tmp_path, text):
    (tmp_path / "skipkv.json").write_text(text)
    with pytest.raises(InputError, match=r"skipkv\.json"):
        model_settings(str(tmp_path))


def test_tiny_refuses_prose_before_decoding(run):
    result = run("generate", "--model", "tiny", "--policy", "full", "Why is the sky blue?")
    assert result.exit_code == 2
    assert "does not know" in result.stderr
    assert result.stdout == ""
