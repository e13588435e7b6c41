"""Which models are decoded: checked by their configuration, before anything runs."""

from pathlib import Path
from typing import Any

import pytest
from transformers import (
    AutoModelForCausalLM,
    LlamaConfig,
    Qwen2Config,
    Qwen3Config,
)

from skipkv import Engine, presets
from skipkv.errors import UnsupportedModelError
from skipkv.models.architecture import Architecture
from skipkv.runtime.store.slots import CacheShape
from skipkv.runtime.support.checks import (
    cache_shape,
    check_architecture,
)
from skipkv.testing import toy_model, toy_tokenizer

SMALL = {
    "vocab_size": 11,
    "hidden_size": 8,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 8,
}


@pytest.mark.parametrize("family", ["llama", "qwen2", "qwen3"])
def test_a_model_with_full_attention_is_decoded(family: Any) -> None:
    model = toy_model(family, layers=3)
    check_architecture(model)
    assert Architecture.of(model.config).full == (0, 1, 2)
    assert cache_shape(model.config) == CacheShape(layers=3, heads=2, groups=2, dim=16)


@pytest.mark.parametrize("family", ["qwen2", "qwen3"])
def test_layers_with_a_sliding_window_are_stored_beside_the_others(family: Any) -> None:
    model = toy_model(family, layers=5, sliding_window=8)
    assert check_architecture(model).full == (0, 2, 4)
    shape = cache_shape(model.config)
    assert (shape.layers, shape.windowed, shape.window) == (3, 2, 8)
    assert (shape.numbers, shape.depth) == ((0, 2, 4), 5)


@pytest.mark.parametrize(
    ("kinds", "message"),
    [
        (["sliding_attention"] * 3, "nothing to evict"),
        (["full_attention", "chunked_attention", "hybrid"], "chunked_attention, which forget"),
        (["linear_attention", "conv", "conv"], "No layer .* conv, linear_.* nothing to evict"),
    ],
)
def test_models_with_nothing_to_evict_or_with_unknown_layers_are_refused(
    kinds: list[str], message: str
) -> None:
    model = toy_model("qwen2", layers=3)
    model.config.layer_types = kinds
    with pytest.raises(UnsupportedModelError, match=message):
        check_architecture(model)


@pytest.mark.parametrize("config", [LlamaConfig, Qwen2Config])
def test_the_head_size_is_the_share_of_a_head_unless_the_model_says_otherwise(config: Any) -> None:
    assert cache_shape(config(**SMALL)) == CacheShape(layers=3, heads=2, groups=2, dim=2)
    wide = cache_shape(Qwen3Config(**SMALL, head_dim=6))
    assert wide.dim == 6


def test_a_window_that_is_switched_off_does_not_count() -> None:
    config = Qwen2Config(**SMALL, use_sliding_window=False, sliding_window=4, max_window_layers=1)
    assert Architecture.of(config).full == (0, 1, 2)


def test_a_model_whose_embeddings_are_not_in_memory_is_refused() -> None:
    with pytest.raises(UnsupportedModelError, match=r"not in memory.*device_map=.*embed_tokens"):
        Engine(toy_model().to("meta"), toy_tokenizer(), presets.full())


def test_layers_on_disk_are_decoded_like_any_other(tmp_path: Path) -> None:
    pytest.importorskip("accelerate", reason="needs the extra gguf")
    model = toy_model(layers=2)
    model.save_pretrained(tmp_path)
    parts = ("model.embed_tokens", "model.layers.0", "model.norm", "model.rotary_emb", "lm_head")
    offloaded = AutoModelForCausalLM.from_pretrained(
        tmp_path,
        device_map={**dict.fromkeys(parts, "cpu"), "model.layers.1": "disk"},
        offload_folder=tmp_path / "disk",
    )
    assert {p.device.type for p in offloaded.model.layers[1].parameters()} == {"meta"}
    policy = presets.rkv(budget=24, interval=4)
    [there], [here] = (
        Engine(m, toy_tokenizer(), policy).generate(["one plus two"], max_new_tokens=40)
        for m in (offloaded, model)
    )
    assert there.tokens == here.tokens
    assert there.stats.events > 0
