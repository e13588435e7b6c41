"""Every family that is named as supported decodes as transformers' own `generate()` does."""

import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM, PretrainedConfig, PreTrainedModel

import skipkv
from skipkv import Engine, presets
from skipkv.errors import UnsupportedModelError
from skipkv.models import FAMILIES, load
from skipkv.models.architecture import STATE_LAYER, Architecture
from skipkv.steerers import AdditiveSteerer, SteeringVector
from skipkv.testing import toy_tokenizer

TOKENIZER = toy_tokenizer()
END: int = TOKENIZER.eos_token_id
PROMPTS = [[5 + (7 * i + 3 * row) % 70 for i in range(n)] for row, n in enumerate((11, 5, 16))]
PROMPTS[2] += TOKENIZER.encode("\n\n")
NEW = 12

SIZES = {
    "vocab_size": len(TOKENIZER),
    "hidden_size": 32,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 4096,
    "pad_token_id": 0,
    "eos_token_id": END,
    "bos_token_id": None,
    "initializer_range": 0.2,
    "tie_word_embeddings": False,
}
EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16}
# Prompts are longer than this window, so that layers with a window and without one differ.
WINDOWS = {"sliding_window": 8, "layer_types": ["full_attention", "sliding_attention"]}
MIXED = {"layer_types": ["linear_attention", "full_attention"]}
DELTA = {
    **MIXED,
    "linear_num_value_heads": 2,
    "linear_num_key_heads": 2,
    "linear_key_head_dim": 8,
    "linear_value_head_dim": 8,
}
MAMBA = {"mamba_n_heads": 4, "mamba_d_head": 16, "mamba_n_groups": 1, "mamba_d_state": 8}
OWN: dict[str, dict[str, Any]] = {
    "bamba": {**MAMBA, "attn_layer_indices": [1]},
    "cohere2": WINDOWS,
    "exaone4": WINDOWS,
    "gemma2": {**WINDOWS, "attn_logit_softcapping": 2.0, "query_pre_attn_scalar": 32},
    "gemma3_text": {**WINDOWS, "query_pre_attn_scalar": 32},
    "glm4_moe": {**EXPERTS, "n_routed_experts": 4, "n_group": 1, "topk_group": 1},
    "gpt_neox": {"num_key_value_heads": 4},
    "gpt_oss": {**WINDOWS, "num_local_experts": 4, "num_experts_per_tok": 2},
    "granite": {"attention_multiplier": 0.3},
    "granitemoehybrid": {
        **MIXED,
        **MAMBA,
        "num_local_experts": 4,
        "num_experts_per_tok": 2,
        "shared_intermediate_size": 16,
        "position_embedding_type": "rope",
    },
    "jamba": {
        "attn_layer_period": 2,
        "attn_layer_offset": 1,
        "mamba_d_state": 8,
        "mamba_dt_rank": 4,
        "use_mamba_kernels": False,
        "num_experts": 2,
        "num_experts_per_tok": 1,
    },
    "lfm2": {"layer_types": ["conv", "full_attention"]},
    "lfm3": {  # windows and states in one model
        "num_hidden_layers": 4,
        "layer_types": ["conv", "full_attention", "sliding_attention", "conv"],
        "sliding_window": 8,
        "num_experts": 2,
        "num_experts_per_tok": 1,
        "moe_intermediate_size": 16,
        "num_dense_layers": 1,
    },
    "ministral": WINDOWS,
    "mistral": {"sliding_window": None},
    "nemotron_h": {
        **MIXED,
        "mamba_num_heads": 4,
        "mamba_head_dim": 16,
        "n_groups": 1,
        "ssm_state_size": 8,
    },
    "olmo3": WINDOWS,
    "olmo_hybrid": DELTA,
    "phi3": {"sliding_window": 8192},  # longer than all positions: it never takes effect
    "qwen2_moe": {**EXPERTS, "shared_expert_intermediate_size": 16},
    "qwen3_5_text": DELTA,
    "qwen3_moe": EXPERTS,
    "qwen3_next": {**DELTA, **EXPERTS, "shared_expert_intermediate_size": 16},
}
STATES = (
    "bamba",
    "granitemoehybrid",
    "jamba",
    "lfm2",
    "lfm3",
    "nemotron_h",
    "olmo_hybrid",
    "qwen3_5_text",
    "qwen3_next",
)
"""Families with layers that have states in the place of entries."""


def config_of(family: str, **changes: Any) -> PretrainedConfig:
    """A small config of a family; skips the test where transformers does not have it."""
    if family in STATES and STATE_LAYER is None:
        pytest.skip("this transformers caches states in another way")
    try:
        return AutoConfig.for_model(family, **{**SIZES, **OWN.get(family, {}), **changes})
    except ValueError as error:
        if "Unrecognized model identifier" not in str(error):
            raise
        pytest.skip(f"this transformers has no {family}")


def model_of(config: PretrainedConfig) -> PreTrainedModel:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        # "sdpa" leaves out soft-capping in some versions.
        model: PreTrainedModel = AutoModelForCausalLM.from_config(
            config, dtype=torch.float32, attn_implementation="eager"
        )
        for name, weight in model.named_parameters():
            if name.endswith("sinks"):  # some version leaves them as they were in memory
                torch.nn.init.normal_(weight)
    head: Any = model.get_output_embeddings()
    head.weight.data[END] = 0  # some other token always exceeds a logit of 0
    model.train(False)
    return model


def generated(model: PreTrainedModel, prompts: list[list[int]]) -> torch.Tensor:
    batch = TOKENIZER.pad({"input_ids": prompts}, padding_side="left", return_tensors="pt")
    output = model.generate(**batch, max_new_tokens=NEW, do_sample=False)
    return output[:, -NEW:]


@pytest.mark.parametrize("family", FAMILIES)
def test_a_family_decodes_as_transformers_does(family: str) -> None:
    model = model_of(config_of(family))
    with warnings.catch_warnings():
        warnings.simplefilter("error", skipkv.errors.SkipKVWarning)
        with skipkv.attach(model, presets.full()):
            together = generated(model, PROMPTS)
        assert (together == generated(model, PROMPTS)).all()
        engine = Engine(model, TOKENIZER, presets.full())
        found = [c.tokens for c in engine.generate(PROMPTS, max_new_tokens=NEW)]
        assert found == [tuple(generated(model, [prompt])[0].tolist()) for prompt in PROMPTS]
    # The last prompt opens a thought, where its steering acts.
    vector = SteeringVector(vector=torch.full((32,), 5.0), layer=1, model=family)
    policy = presets.skipkv(12, interval=6, steering=AdditiveSteerer(vector))
    with skipkv.attach(model, policy, tokenizer=TOKENIZER) as attached:
        steered = generated(model, PROMPTS)
    assert max(attached.peak_entries) == attached.peak_entries[2] == 12 + 6
    assert not (steered[2] == together[2]).all()


@pytest.mark.parametrize("family", ["gemma2", "gpt_oss"])
def test_soft_caps_and_sinks_are_part_of_every_way_to_attend(family: str) -> None:
    model = model_of(config_of(family, layer_types=["full_attention"] * 2))
    policies = [presets.full(), presets.h2o(64, interval=8), presets.snapkv(64, interval=8)]
    for policy in policies:  # they keep all
        engine = Engine(model, TOKENIZER, policy)
        found = [c.tokens for c in engine.generate(PROMPTS, max_new_tokens=NEW)]
        assert found == [tuple(generated(model, [prompt])[0].tolist()) for prompt in PROMPTS]


REFUSED = {
    "falcon": ({}, "compute attention themselves"),
    "bloom": ({}, "compute attention themselves"),
    "deepseek_v3": ({}, "multi-head latent attention, with keys of 192 and values of 128"),
    "falcon_h1": ({}, r"layers of type hybrid.* yet|which skipkv does not know how to fill"),
    "llama4_text": ({}, r"layers of type chunked_attention.* yet"),
    "mamba": ({}, r"no num_attention_heads|nothing to evict|does not know how to fill"),
    "mistral": (
        {"sliding_window": 64},
        r"nothing to evict.*at most 64 tokens.*sliding_window=None",
    ),
    "ministral": ({"layer_types": ["sliding_attention"] * 2}, "nothing to evict"),
}


@pytest.mark.parametrize("family", REFUSED)
def test_what_a_cache_of_keys_and_values_cannot_hold_is_refused_by_its_config(
    family: str, tmp_path: Path
) -> None:
    changes, message = REFUSED[family]
    if family == "falcon_h1" and STATE_LAYER is None:
        pytest.skip("this transformers caches states in another way")
    try:
        config = AutoConfig.for_model(family, num_hidden_layers=2, **changes)
    except ValueError:
        pytest.skip(f"this transformers has no {family}")
    with pytest.raises(UnsupportedModelError, match=message):
        Architecture.of(config)
    config.save_pretrained(tmp_path)
    with pytest.raises(UnsupportedModelError, match=message):  # before there are any weights
        load(tmp_path)


def test_a_window_longer_than_the_models_positions_holds_until_it_would_take_effect() -> None:
    model = model_of(config_of("phi3", sliding_window=32, max_position_embeddings=32))
    assert Architecture.of(model.config).horizon == 32
    for tokens, refused in ((32, False), (33, True)):
        ids = torch.arange(5, 5 + tokens)[None]
        with skipkv.attach(model, presets.full()):
            if not refused:
                model.generate(ids, max_new_tokens=1)
                continue
            with pytest.raises(UnsupportedModelError, match="sliding window of 32 tokens"):
                model.generate(ids, max_new_tokens=1)


@pytest.mark.parametrize(
    ("keyword", "message"),
    [
        ({"position_bias": torch.zeros(1)}, "'position_bias'"),
        ({"head_mask": torch.ones(4)}, "'head_mask'"),
        ({"sliding_window": 8}, "called with a sliding window"),
        ({"is_causal": False}, "tokens that come later"),
        ({"an_invention": 3}, "'an_invention'"),
    ],
)
def test_attention_with_a_keyword_that_is_not_honoured_is_an_error(
    keyword: dict[str, Any], message: str
) -> None:
    model = model_of(config_of("llama"))
    # Keywords of a forward pass reach the attention function.
    with (
        skipkv.attach(model, presets.full()),
        pytest.raises(UnsupportedModelError, match=message),
    ):
        model(input_ids=torch.tensor([PROMPTS[0]]), use_cache=True, logits_to_keep=1, **keyword)


def test_attention_with_dropout_is_an_error() -> None:
    model = model_of(config_of("llama", attention_dropout=0.5)).train()
    with (
        skipkv.attach(model, presets.full()),
        pytest.raises(UnsupportedModelError, match=r"Call model\.eval\(\)"),
    ):
        generated(model, PROMPTS)
