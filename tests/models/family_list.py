"""The families of models that the tests decode: one list, for the tests and for docs/models.md."""

from collections.abc import Sequence
from typing import Any

import attrs
import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM, PretrainedConfig, PreTrainedModel

from skipkv.models.architecture import STATE_LAYER
from skipkv.testing import toy_tokenizer

TOKENIZER = toy_tokenizer()
END: int = TOKENIZER.eos_token_id
PROMPTS = [[5 + (7 * i + 3 * row) % 70 for i in range(n)] for row, n in enumerate((11, 5, 16))]
# The last prompt opens a thought.
PROMPTS[2] = [*TOKENIZER.encode("<think>"), *PROMPTS[2][1:], *TOKENIZER.encode("\n\n")]
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
SETTINGS: dict[str, dict[str, Any]] = {
    "bamba": {**MAMBA, "attn_layer_indices": [1]},
    "cohere2": WINDOWS,
    "exaone4": WINDOWS,
    "falcon_h1": {  # attention and states in one layer
        "mamba_d_ssm": 32,
        "mamba_n_heads": 4,
        "mamba_d_head": 8,
        "mamba_n_groups": 1,
        "mamba_d_state": 8,
        "mamba_chunk_size": 8,
    },
    "gemma2": {**WINDOWS, "attn_logit_softcapping": 2.0, "query_pre_attn_scalar": 32},
    "gemma3_text": {**WINDOWS, "query_pre_attn_scalar": 32},
    "glm4": {},
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
        "num_experts": 4,
        "num_experts_per_tok": 2,
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
    "llama": {},
    "ministral": WINDOWS,
    "mistral": {"sliding_window": None},
    "nemotron_h": {
        **MIXED,
        "mamba_num_heads": 4,
        "mamba_head_dim": 16,
        "n_groups": 1,
        "ssm_state_size": 8,
    },
    "olmo2": {},
    "olmo3": WINDOWS,
    "olmo_hybrid": DELTA,
    "phi3": {"sliding_window": 8192},  # longer than all positions: it never takes effect
    "qwen2": {},
    "qwen2_moe": {**EXPERTS, "shared_expert_intermediate_size": 16},
    "qwen3": {},
    "qwen3_5_text": DELTA,
    "qwen3_moe": EXPERTS,
    "qwen3_next": {**DELTA, **EXPERTS, "shared_expert_intermediate_size": 16},
    "smollm3": {"no_rope_layers": [1, 0]},
}
"""Families -> what makes their config small. Every test of families is parametrised by this."""


@attrs.frozen
class Refusal:
    """A family that is refused by its config.

    Args:
        why: what is said, a regular expression.
        settings: of its config.
        shown: the reason, in the words of the table.
    """

    why: str
    shown: str
    settings: dict[str, Any] = attrs.field(factory=dict)


REFUSED = {
    "falcon": Refusal("compute attention themselves", "it computes attention itself"),
    "bloom": Refusal("compute attention themselves", "it computes attention itself"),
    "mpt": Refusal("compute attention themselves", "it computes attention itself"),
    "deepseek_v3": Refusal(
        "multi-head latent attention, with keys of 192 and values of 128",
        "multi-head latent attention: keys and values differ in size",
    ),
    "llama4_text": Refusal(
        r"chunked_attention, which forget all tokens where a chunk ends.*its own generate",
        "chunked attention, which forgets all tokens where a chunk ends",
    ),
    "mamba": Refusal(
        r"no num_attention_heads|nothing to evict|does not know how to fill",
        "it has no layer with attention, so there is nothing to evict",
    ),
    "mistral": Refusal(
        r"nothing to evict.*at most 64 tokens.*sliding_window=None",
        "with a window in all layers: its cache is bounded already",
        {"sliding_window": 64},
    ),
    "ministral": Refusal(
        "nothing to evict",
        "with a window in all layers: its cache is bounded already",
        {"layer_types": ["sliding_attention"] * 2},
    ),
}


def config_of(family: str, **changes: Any) -> PretrainedConfig:
    """A small config of a family; skips the test where transformers does not have it."""
    settings = {**SIZES, **SETTINGS.get(family, {}), **changes}
    _skip_unless_states_are_held(settings.get("layer_types"))  # old configs refuse some kinds
    try:
        config = AutoConfig.for_model(family, **settings)
    except ValueError as error:
        if "Unrecognized model identifier" not in str(error):
            raise
        pytest.skip(f"this transformers has no {family}")
    kinds = getattr(config, "layer_types", None) or getattr(config, "layers_block_type", None)
    _skip_unless_states_are_held(kinds)
    return config


def _skip_unless_states_are_held(kinds: Sequence[str] | None) -> None:
    if STATE_LAYER is None and {*(kinds or ())} - {"full_attention", "sliding_attention"}:
        pytest.skip("this transformers caches states in another way")


def model_of(config: PretrainedConfig) -> PreTrainedModel:
    """A model with random weights that never ends a sequence, and never opens a think block."""
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
    never = [END, *TOKENIZER.encode("<think>")]
    head.weight.data[never] = 0  # some other token always exceeds a logit of 0
    model.train(False)
    return model


def generated(model: PreTrainedModel, prompts: list[list[int]]) -> torch.Tensor:
    """What `generate()` decodes of a left-padded batch."""
    batch = TOKENIZER.pad({"input_ids": prompts}, padding_side="left", return_tensors="pt")
    output = model.generate(**batch, max_new_tokens=NEW, do_sample=False)
    return output[:, -NEW:]
