"""Which models the runtime decodes, checked before anything runs."""

from transformers import PretrainedConfig, PreTrainedModel

from skipkv.errors import InputError, UnsupportedModelError
from skipkv.models.families import check_model_type
from skipkv.policy import Budget
from skipkv.runtime.slots import CacheShape


def full_attention_layers(config: PretrainedConfig) -> dict[int, int]:
    """Layer of the model -> layer of the store, for the layers that attend to the whole past."""
    types = getattr(config, "layer_types", None) or ["full_attention"] * config.num_hidden_layers
    layers = [i for i, kind in enumerate(types) if kind == "full_attention"]
    return {layer: index for index, layer in enumerate(layers)}


def cache_shape(config: PretrainedConfig) -> CacheShape:
    """The axes of a model's cache."""
    heads = config.num_key_value_heads
    dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    return CacheShape(
        layers=len(full_attention_layers(config)),
        heads=heads,
        groups=config.num_attention_heads // heads,
        dim=dim,
    )


def check_family(model: PreTrainedModel) -> None:
    """Raise `UnsupportedModelError` unless the model is of a family the runtime was tested on."""
    config = model.config
    check_model_type(config.model_type)
    if model.device.type == "meta":
        raise UnsupportedModelError(
            "The model's first weights are not in memory: they were offloaded to disk, or never "
            'loaded. Keep the embeddings in memory, device_map={"model.embed_tokens": "cpu", ...}; '
            "layers may lie on disk."
        )
    types = set(getattr(config, "layer_types", None) or ["full_attention"])
    unknown = types - {"full_attention", "sliding_attention"}
    if unknown:
        raise UnsupportedModelError(
            f"The model has layers of type {', '.join(sorted(unknown))}; only full and "
            "sliding-window attention are supported."
        )
    if "full_attention" not in types:
        raise UnsupportedModelError(
            "Every layer of the model has sliding-window attention: its cache is bounded already, "
            "and there is nothing to evict."
        )


def check_prompt(budget: Budget | None, tokens: int, index: int) -> None:
    """Raise `InputError` if a prompt is to be protected and leaves no room beside it."""
    if budget is None or not budget.prompt or budget.tokens is None:
        return
    if max(tokens, budget.sinks) + budget.window >= budget.tokens:
        raise InputError(
            f"Prompt {index} has {tokens} tokens, which Budget(prompt=True) protects with a window "
            f"of {budget.window}: that leaves no room in a budget of {budget.tokens}. Raise the "
            "budget or do not protect the prompt."
        )


def check_all_full(config: PretrainedConfig) -> None:
    """Raise `UnsupportedModelError` if some layers have a sliding window.

    Their own caches know one length for a whole batch, and the engine's sequences come and go.
    """
    missing = config.num_hidden_layers - len(full_attention_layers(config))
    if missing:
        raise UnsupportedModelError(
            f"{missing} of {config.num_hidden_layers} layers have sliding-window attention, which "
            "the Engine does not decode. Use skipkv.attach(model, policy) with model.generate(): "
            "it leaves those layers to their own caches."
        )
