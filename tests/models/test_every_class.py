"""Every class of causal language models that transformers has: it decodes alike, or is refused.

With small random configs, which are guessed from the fields that a config has. A class for which
that does not succeed is skipped; one that is refused, with its reason, is an expected failure. So
the summary counts all three: `python -m pytest -m slow tests/models/test_every_class.py`.
"""

import warnings
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from family_checks import CHECKS
from family_list import PROMPTS, SETTINGS, SIZES, generated, model_of
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel
from transformers.models.auto.configuration_auto import CONFIG_MAPPING
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from skipkv.errors import SkipKVWarning, UnsupportedModelError
from skipkv.models.architecture import STATE_LAYER

LAYERS = ("num_hidden_layers", "n_layer", "num_layers", "decoder_layers", "encoder_layers")
SMALL: dict[str, Any] = {
    **SIZES,
    "bos_token_id": 2,
    "is_decoder": True,
    **dict.fromkeys(("n_embd", "d_model", "ffn_dim", "d_ff", "decoder_ffn_dim", "lru_width"), 32),
    **dict.fromkeys(("n_head", "num_heads", "decoder_attention_heads"), 4),
    **dict.fromkeys(("n_positions", "n_ctx"), 512),
    **dict.fromkeys(("num_experts", "num_local_experts", "n_routed_experts", "moe_num_experts"), 4),
    **dict.fromkeys(("num_experts_per_tok", "num_experts_per_token"), 2),
    **dict.fromkeys(("moe_intermediate_size", "shared_expert_intermediate_size"), 16),
    **dict.fromkeys(("n_group", "topk_group", "n_groups", "first_k_dense_replace"), 1),
    **dict.fromkeys(("sliding_window", "rotary_dim", "hidden_size_per_layer_input"), 8),
    **dict.fromkeys(("mamba_n_heads", "mamba_num_heads"), 4),
    **{"mamba_d_head": 16, "mamba_d_state": 8, "mamba_n_groups": 1, "mamba_d_ssm": 32},
    **{"linear_num_value_heads": 2, "linear_num_key_heads": 2, "ssm_state_size": 8},
    **{"linear_key_head_dim": 8, "linear_value_head_dim": 8, "max_window_layers": 1},
    "vocab_size_per_layer_input": SIZES["vocab_size"],
}
LATENT = {"qk_rope_head_dim": 4, "qk_nope_head_dim": 4, "v_head_dim": 6, "num_key_value_heads": 4}
LATENT |= {"kv_lora_rank": 8, "q_lora_rank": 8}


def small(config: Any, layers: int) -> dict[str, Any]:
    """Settings of a small config, for the fields that this one has."""
    settings = {**SMALL, **dict.fromkeys(LAYERS, layers)}
    has = {*vars(config), *getattr(type(config), "attribute_map", {})}
    if "kv_lora_rank" in has:
        settings |= LATENT
        del settings["head_dim"]
    if getattr(config, "sliding_window", None) is None:
        del settings["sliding_window"]
    own = SETTINGS.get(config.model_type, {})
    return {name: value for name, value in {**settings, **own}.items() if name in {*has, *own}}


def candidates(name: str) -> Iterator[dict[str, Any]]:
    """Settings that may make a small model of a class."""
    whole = CONFIG_MAPPING[name]()
    text = getattr(whole, "text_config", None)
    for layers in (2, 4, 6):
        if hasattr(text, "model_type"):
            yield {"text_config": {**small(text, layers), "model_type": text.model_type}}
        settings = small(whole, layers)
        yield settings
        yield {**settings, "layer_types": None}
        yield {n: v for n, v in settings.items() if n not in ("sliding_window", "head_dim")}


def model_named(name: str) -> PreTrainedModel:
    """A small model of a class; skips the test where none is found that decodes by itself."""
    reasons = ["no config"]
    try:
        for settings in candidates(name):
            try:
                config = AutoConfig.for_model(name, **settings)
                with torch.device("meta"):
                    size = AutoModelForCausalLM.from_config(config).num_parameters()
                if size > 30e6:
                    raise ValueError(f"{size} parameters")
                model = model_of(config)
                generated(model, PROMPTS[:1])
                return model
            except Exception as error:
                reasons.append(f"{type(error).__name__}: {error}"[:200])
    except Exception as error:
        reasons.append(str(error)[:200])
    pytest.skip(f"no small {name}: {reasons[-1]}")


@pytest.mark.slow
@pytest.mark.parametrize("name", MODEL_FOR_CAUSAL_LM_MAPPING_NAMES)
def test_a_class_decodes_as_by_itself_or_is_refused_with_a_reason(name: str) -> None:
    model = model_named(name)
    if STATE_LAYER is None:
        pytest.skip("this transformers caches states in another way")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SkipKVWarning)
        try:
            for column in ("Engine", "attach"):
                CHECKS[column](model)
        except UnsupportedModelError as refused:
            if "its own generate()" not in str(refused):
                raise
            pytest.xfail(str(refused))
