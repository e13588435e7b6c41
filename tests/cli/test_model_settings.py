"""What a model's folder says of policies: it holds where the command line says nothing."""

import json
import re

import pytest
import torch

from skipkv import presets
from skipkv.benchmark import policies_of
from skipkv.compositions import described, model_settings, own_settings, resolve_policy
from skipkv.errors import ConfigError
from skipkv.evaluation import Candidate
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
    policy = resolve_policy("skipkv", settings=settings)
    assert policy.budget.tokens == 60
    assert policy.evictor == SentencePrimary(threshold=0.7, whole=False)
    assert isinstance(policy.steerer, AdaptiveSteerer)
    assert (policy.steerer.strength, policy.steerer.growth) == (0.5, 0.02)


def test_what_is_told_wins(settings):
    policy = resolve_policy(
        "skipkv", budget=99, interval=8, strength=2.0, growth=0.5, settings=settings
    )
    assert (policy.budget.tokens, policy.budget.interval) == (99, 8)
    assert (policy.steerer.strength, policy.steerer.growth) == (2.0, 0.5)


def test_a_preset_without_a_vector_does_not_steer(settings):
    policy = resolve_policy("rkv", settings=settings)
    assert (policy.budget.tokens, policy.budget.interval) == (50, 16)
    assert policy.steerer == NoSteering()


def test_seal_steers_the_full_cache_or_rkv(settings):
    policy = resolve_policy("seal", settings=settings)
    assert policy.budget is None
    assert isinstance(policy.steerer, AdditiveSteerer)
    assert resolve_policy("seal", budget=40, settings=settings).budget.interval == 16


def test_a_policy_of_ones_own_gets_nothing_from_the_model(settings):
    with pytest.raises(ConfigError, match="needs a budget"):
        resolve_policy("skipkv.presets:rkv", settings=settings)


def test_without_settings_a_preset_must_be_told(tmp_path):
    assert model_settings(str(tmp_path)) == {}
    assert model_settings("some/hub-id") == {}
    with pytest.raises(ConfigError, match="needs a budget"):
        resolve_policy("skipkv", settings={})


def test_tiny_has_settings_for_every_preset_that_needs_some():
    from skipkv.presets import NAMES

    own = model_settings("tiny")
    assert set(own) == {*NAMES, "calibrated"} - {"full"}
    for name in NAMES:
        resolve_policy(name, settings=own)


def test_a_star_stands_for_the_other_presets_that_need_only_a_budget(tmp_path):
    text = {"*": {"budget": 60}, "rkv": {"interval": 4}}
    (tmp_path / "skipkv.json").write_text(json.dumps(text))
    own = model_settings(str(tmp_path))
    assert set(own) == set(presets.BUDGETED)
    assert own["rkv"] == {"interval": 4}
    assert resolve_policy("skipkv", settings=own).budget.tokens == 60


@pytest.mark.parametrize("published", [False, True])
def test_a_name_may_ask_for_the_calibrated_threshold(tmp_path, published):
    text = {
        "skipkv": {"threshold": 0.9, "budget": 60},
        "calibrated": {"skipkv": {"threshold": 0.8}},
    }
    (tmp_path / "skipkv.json").write_text(json.dumps(text))
    own = model_settings(str(tmp_path), published=published)
    name = "skipkv:threshold=calibrated"
    assert resolve_policy(name, budget=64, settings=own) == presets.skipkv(64, threshold=0.8)
    candidate = Candidate.parse(f"{name},pool=5", settings=own)
    assert candidate.policy(budget=64, interval=16).evictor.threshold == 0.8
    assert candidate.note == f"{name},pool=5 has the model's settings: threshold=0.8"
    # and where a name does not, nothing changes
    asked = resolve_policy("skipkv", budget=64, settings=own)
    assert asked.evictor.threshold == (0.95 if published else 0.9)


def test_a_model_s_settings_may_ask_for_it_too(tmp_path):
    text = {
        "skipkv": {"threshold": "calibrated", "budget": 60},
        "calibrated": {"skipkv": {"threshold": 0.8}, "made": "by hand"},
    }
    (tmp_path / "skipkv.json").write_text(json.dumps(text))
    policy = resolve_policy("skipkv", settings=model_settings(str(tmp_path)))
    assert policy == presets.skipkv(60, threshold=0.8)


@pytest.mark.parametrize("model", ["tiny", "rambler"])
def test_the_embedded_models_have_one(model):
    own = model_settings(model, published=True)
    found = resolve_policy("skipkv:threshold=calibrated", budget=64, settings=own)
    assert 0.8 < found.evictor.threshold < 0.95


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("skipkv:threshold=calibrated", "none is known.*`skipkv calibrate --threshold FILE`"),
        ("skipkv:pool=calibrated", "asks for a calibrated pool, and none is known"),
        ("lazy_eviction:threshold=calibrated", "asks for a calibrated threshold.* Give a value"),
    ],
)
@pytest.mark.parametrize("settings", [None, {}, {"calibrated": {"rkv": {"pool": 5}}}])
def test_without_a_calibrated_value_the_name_is_refused(name, message, settings):
    with pytest.raises(ConfigError, match=message):
        resolve_policy(name, budget=64, settings=settings)
    with pytest.raises(ConfigError, match=message):
        Candidate.parse(name, settings=settings)


def test_a_preset_knows_no_model_to_take_the_calibrated_threshold_of():
    with pytest.raises(ConfigError, match=r"a preset knows no model.*settings=model_settings"):
        presets.skipkv(64, threshold="calibrated")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"calibrated": []}', "'calibrated' must hold an object"),
        ('{"calibrated": {"rkw": {}}}', "has options for 'rkw'"),
        ('{"calibrated": {"skipkv": {"treshold": 3}}}', "skipkv takes no 'treshold'"),
        ('{"skipkv": {"threshold": "calibrated"}}', "asks for a calibrated threshold, and none"),
        ('{"*": 3}', "the options of random must be an object, got 3"),
        ('{"*": {"pool": 3}}', "random takes no 'pool'"),
        ("{", "is not JSON"),
        ("[" * 100_000, "is not JSON"),
        ("[]", "must hold an object"),
        ('{"rkv": 3}', "the options of rkv must be an object, got 3"),
        ('{"rkw": {}}', "has options for 'rkw'. Known are: full, "),
        ('{"rkv": {"treshold": 3}}', "rkv takes no 'treshold'"),
        ('{"skipkv": {"vector": 5}}', "the vector of skipkv must be the name of a file, got 5"),
        ('{"skipkv": {"vector": "none"}}', "No steering vector at "),
        ('{"skipkv": {"budget": "many"}}', "budget='many'|tokens='many'"),
        ('{"skipkv": {"importance": "much"}}', "importance='much'"),
    ],
)
def test_a_broken_file_ends_the_command_with_one_line(run, tmp_path, text, message):
    (tmp_path / "skipkv.json").write_text(text)
    result = (
        run("generate", "--model", tmp_path, "--policy", "skipkv", "--budget", 64, "so")
        if ("many" not in text)
        else run("generate", "--model", tmp_path, "--policy", "skipkv", "so")
    )
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr.count("\n") == 1
    assert re.search(message, result.stderr), result.stderr


@pytest.mark.parametrize("name", ["skipkv", "skipkv:pool=5"])
def test_a_name_means_the_same_in_every_command(name):
    """With tiny: a threshold of 0.7 and steering; published: 0.95 and none."""
    options = {} if name == "skipkv" else {"pool": 5}
    own = model_settings("tiny")
    steerer = resolve_policy("skipkv", settings=own).steerer
    meant = presets.skipkv(64, interval=16, threshold=0.7, steering=steerer, **options)
    assert resolve_policy(name, budget=64, interval=16, settings=own) == meant
    assert Candidate.parse(name, settings=own).policy(budget=64, interval=16) == meant
    assert policies_of([name], settings=own)[0].policy(budget=64, interval=16) == meant
    published = presets.skipkv(64, interval=16, **options)
    assert resolve_policy(name, budget=64, interval=16) == published
    assert Candidate.parse(name).policy(budget=64, interval=16) == published


NOTE = "skipkv has the model's settings: {}threshold=0.7, vector=steering.safetensors, strength=0.6"


@pytest.mark.parametrize(
    ("command", "first"),
    [
        (("generate", "--policy", "skipkv", "-n", "2", "a:7. Start at a, find a and a."), "budget"),
        (("eval", "--policies", "skipkv", "--limit", "1", "-n", "2", "-b", "64", "-o", "out"), ""),
        (
            ("bench", "--policies", "skipkv", "--baselines", "none", "-n", "2", "--repeats", "1",
             "--batch-sizes", "1", "--plots", "none", "-o", "out"),
            "",
        ),
    ],
)  # fmt: skip
@pytest.mark.parametrize("published", [False, True])
def test_a_command_says_which_settings_are_the_model_s(
    run, tmp_path, monkeypatch, command, first, published
):
    monkeypatch.chdir(tmp_path)
    more = ("--published",) if published else ()
    if published and command[0] == "generate":
        more += ("--budget", "270")
    result = run(*command, *more, "--model", "tiny", "--device", "cpu")
    assert result.exit_code == 0, result.output
    said = NOTE.format("budget=270, interval=16, " if first else "")
    assert (said in result.stderr) == (not published)


def test_what_is_told_is_not_said_to_be_the_model_s(settings):
    own = own_settings("skipkv:threshold=0.9", settings)
    note = described("skipkv:threshold=0.9", own, {"threshold": 0.9, "budget": 64})
    assert note == (
        "skipkv:threshold=0.9 has the model's settings: vector=v.safetensors, strength=0.5"
    )
    assert described("rkv", {"budget": 3}, {"budget": 4}) is None


def test_what_a_policy_s_name_gives_is_not_said_to_be_the_model_s(run):
    said = "skipkv: rkv:budget=99 has the model's settings: interval=16\n"
    result = run(
        "generate", "--policy", "rkv:budget=99", "--model", "tiny", "--device", "cpu", "-n", "2",
        "a:7. Start at a, find a and a.",
    )  # fmt: skip
    assert said in result.stderr
    assert "budget=270" not in result.stderr


def test_tiny_refuses_prose_before_decoding(run):
    result = run("generate", "--model", "tiny", "--policy", "full", "Why is the sky blue?")
    assert result.exit_code == 2
    assert "does not know" in result.stderr
    assert result.stdout == ""
