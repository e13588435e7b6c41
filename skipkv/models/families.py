"""The supported architectures, and what their config.json must say."""

from collections.abc import Mapping
from typing import Any

from skipkv.errors import InputError, UnsupportedModelError

FAMILIES = ("llama", "qwen2", "qwen3")
"""Values of `model_type` in a config.json."""


def check_model_type(model_type: object) -> None:
    """Raise `UnsupportedModelError` unless the runtime was tested with models of this type."""
    if model_type not in FAMILIES:
        raise UnsupportedModelError(
            f"Models of type {model_type!r} are not supported. Supported are the families "
            f"{', '.join(FAMILIES)} (transformers' model_type)."
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
