"""Random weights of a given architecture, and a tokenizer to go with them."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoConfig, AutoModelForCausalLM

from skipkv import Engine, presets
from skipkv.errors import InputError
from skipkv.models import load
from skipkv.models.random_weights import synthetic_tokenizer

CONFIGS = Path(__file__).parents[2] / "benchmarks" / "configs"
SMALL = {
    "architectures": ["Qwen2ForCausalLM"],
    "model_type": "qwen2",
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_attention_heads": 4,
    "num_hidden_layers": 2,
    "num_key_value_heads": 2,
    "vocab_size": 400,
    "rope_theta": 500.0,
    "dtype": "bfloat16",
}


def written(folder: Path, **changes: Any) -> str:
    path = folder / "c.json"
    path.write_text(json.dumps({**SMALL, **changes}))
    return f"random:{path}"


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("family", ["qwen2", "qwen3", "llama"])
def test_the_model_is_a_stock_one_of_its_weights(family: str, tied: bool, tmp_path: Path) -> None:
    name = written(tmp_path, model_type=family, architectures=None, tie_word_embeddings=tied)
    model, _ = load(name, dtype="float32", device="cpu")
    # what is not a weight (rotary frequencies) is as a model built in the usual way has it
    stock = AutoModelForCausalLM.from_config(model.config)
    stock.load_state_dict(model.state_dict())
    stock.train(False)
    ids = torch.arange(60).reshape(2, 30)
    with torch.no_grad():
        assert torch.equal(model(ids).logits, stock(ids).logits)
    std = 0.02 if tied else 1.0
    assert model.model.embed_tokens.weight.std().item() == pytest.approx(std, rel=0.1)
    assert model.model.layers[1].mlp.down_proj.weight.std().item() == pytest.approx(1 / 8, rel=0.1)
    assert (model.lm_head.weight is model.model.embed_tokens.weight) == tied
    assert not model.training


def test_dtype_and_device_are_those_asked_for(tmp_path: Path) -> None:
    assert load(written(tmp_path), device="cpu")[0].dtype == torch.bfloat16
    model, _ = load(written(tmp_path), dtype=torch.float16, device="cpu")
    assert {p.dtype for p in model.parameters()} == {torch.float16}
    assert model.device.type == "cpu"
    assert model.model.rotary_emb.inv_freq.dtype == torch.float32


def test_two_loads_are_alike(tmp_path: Path) -> None:
    first, second = (load(written(tmp_path), device="cpu")[0] for _ in range(2))
    assert torch.equal(first.lm_head.weight, second.lm_head.weight)


def test_what_it_decodes_gives_segmenters_and_steering_work(tmp_path: Path) -> None:
    name = written(tmp_path, vocab_size=4000, hidden_size=64)
    model, tokenizer = load(name, dtype="float32", device="cpu")
    engine = Engine(model, tokenizer, presets.full(), eos_token_ids=[])
    [completion] = engine.generate(["What is it?"], max_new_tokens=300)
    assert len(set(completion.tokens)) > 60
    assert completion.text.count("\n") >= 5
    assert completion.text.count("\n\n") >= 2


@given(st.text(max_size=40))
def test_the_tokenizer_loses_nothing_of_a_text(text: str) -> None:
    tokenizer = synthetic_tokenizer(400)
    assert tokenizer.decode(tokenizer(text)["input_ids"]) == text


def test_every_id_of_the_vocabulary_is_a_token_with_a_text_of_its_own() -> None:
    tokenizer = synthetic_tokenizer(1000)
    assert len(tokenizer) == 1000
    words = [tokenizer.decode([i]) for i in range(256, 999)]
    assert len(set(words)) == len(words)
    assert all(words)
    assert tokenizer.eos_token_id == 999
    ends = sum(word.endswith("\n") for word in words)
    assert 0.05 < ends / len(words) < 0.08
    assert 0.4 < sum(word.endswith("\n\n") for word in words) / ends < 0.6


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"vocab_size": 100}, "vocab_size of at least"),
        ({"model_type": "gpt2"}, "config of a 'gpt2' model"),
        ({"model_type": "no such thing"}, "Cannot read the model config"),
        ({"hidden_size": "many"}, "hidden_size"),
        ({"hidden_size": -1}, "hidden_size=-1 must be a whole number of at least 1"),
        ({"hidden_size": 10**12}, r"take [\d,]+ GB, and cpu has"),
        ({"num_hidden_layers": 10**9}, "num_hidden_layers=1000000000 must be at most 10000"),
        ({"num_hidden_layers": 9999, "hidden_size": 2**16}, r"take [\d,]+ GB"),
        ({"num_hidden_layers": 0}, "num_hidden_layers=0"),
        ({"vocab_size": 10**12}, r"take [\d,]+ GB"),
        ({"num_attention_heads": 0}, "num_attention_heads|Cannot read"),
        ({"num_attention_heads": 5}, "num_attention_heads"),
        ({"num_key_value_heads": 3}, "num_attention_heads=4 must be a multiple"),
        ({"model_type": "llama", "hidden_size": 2, "head_dim": None}, "Cannot make the model|head"),
        ({"layer_types": ["full_attention"]}, "layer"),
        ({"rope_parameters": {"rope_type": "x"}}, "rope|Cannot"),
        ({"hidden_act": "x"}, "Cannot make the model of .*KeyError"),
        ({"dtype": "float99"}, "float99"),
    ],
)
def test_a_config_that_makes_no_model_is_refused(
    change: dict[str, Any], message: str, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match=message):
        load(written(tmp_path, **change), device="cpu")


def test_a_config_that_is_not_there_is_refused() -> None:
    with pytest.raises(InputError, match="No model config at 'nowhere"):
        load("random:nowhere.json", device="cpu")


@pytest.mark.parametrize(
    ("name", "billions"),
    [("deepseek-r1-distill-qwen-7b", 7.6), ("deepseek-r1-distill-qwen-1.5b", 1.8)],
)
def test_the_configs_that_ship_have_the_size_they_are_named_for(name: str, billions: float) -> None:
    config = AutoConfig.from_pretrained(CONFIGS / f"{name}.json")
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    assert model.num_parameters() / 1e9 == pytest.approx(billions, abs=0.05)
    assert config.rope_parameters["rope_theta"] == 10000
