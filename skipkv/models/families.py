"""The architectures that the tests decode; checks of a config.json before anything is loaded."""

from collections.abc import Mapping
from typing import Any

from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from skipkv.errors import InputError, UnsupportedModelError

FAMILIES = (
    "bamba",
    "cohere2",
    "exaone4",
    "falcon_h1",
    "gemma2",
    "gemma3_text",
    "glm4",
    "glm4_moe",
    "gpt_neox",
    "gpt_oss",
    "granite",
    "granitemoehybrid",
    "jamba",
    "lfm2",
    "lfm3",
    "llama",
    "ministral",
    "mistral",
    "nemotron_h",
    "olmo2",
    "olmo3",
    "olmo_hybrid",
    "phi3",
    "qwen2",
    "qwen2_moe",
    "qwen3",
    "qwen3_5_text",
    "qwen3_moe",
    "qwen3_next",
    "smollm3",
)
"""Values of `model_type` in a config.json with which the tests decode as transformers does."""


def check_model_type(model_type: object, *, own_code: bool = False) -> None:
    """Raise `UnsupportedModelError` unless there is a causal language model of this type.

    Args:
        model_type: what a config.json says.
        own_code: whether the model's own code is run, which may define any type.
    """
    if own_code or model_type in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES:
        return
    raise UnsupportedModelError(
        f"Models of type {model_type!r} are not supported: the installed transformers has no "
        "causal language model of this type. Install a version that has it. If the model "
        "brings code of its own that you trust, load it with trust_remote_code=True."
    )


_SIZES = (
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "vocab_size",
)
_MOST_LAYERS = 10_000


def check_sizes(config: Mapping[str, Any]) -> None:
    """Raise `InputError` for sizes that transformers would take for ever to build, or cannot build.

    Args:
        config: what a config.json says; transformers fills in a size that it leaves out.
    """
    for field in _SIZES:
        value = config.get(field)
        if value is None:
            continue
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise InputError(f"{field}={value!r} must be a whole number of at least 1.")
    layers, heads = config.get("num_hidden_layers") or 1, config.get("num_attention_heads") or 1
    if layers > _MOST_LAYERS:
        raise InputError(f"num_hidden_layers={layers} must be at most {_MOST_LAYERS}.")
    kv_heads = config.get("num_key_value_heads") or heads
    if heads % kv_heads:
        raise InputError(
            f"num_attention_heads={heads} must be a multiple of num_key_value_heads={kv_heads}."
        )
