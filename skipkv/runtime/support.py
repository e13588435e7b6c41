"""Checks of models, tokenizers and policies, made before any decoding."""

import inspect
from typing import Any

from transformers import PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

from skipkv._validators import kind_of
from skipkv.errors import ConfigError, InputError, UnsupportedModelError
from skipkv.models.families import check_model_type
from skipkv.policy import Budget, Policy
from skipkv.presets import NAMES, get
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
    numbers = tuple(full_attention_layers(config))
    return CacheShape(
        layers=len(numbers),
        heads=heads,
        groups=config.num_attention_heads // heads,
        dim=dim,
        numbers=numbers,
        depth=config.num_hidden_layers,
    )


def check_given(model: Any, tokenizer: Any, policy: Any, *, user: str) -> None:
    """Raise an error that says what to write if an argument is of the wrong kind.

    Args:
        model: what a user gave as the model.
        tokenizer: what a user gave as the tokenizer.
        policy: what a user gave as the policy.
        user: the name of the call, for errors.

    Raises:
        InputError: `model` is a tokenizer, or `tokenizer` is not one.
        ConfigError: `policy` is not a policy.
    """
    if isinstance(model, PreTrainedTokenizerBase):
        raise InputError(
            f"{user} takes the model first and then its tokenizer. Exchange the two arguments."
        )
    check_tokenizer(tokenizer, user=user)
    check_policy(policy, user=user)


def check_tokenizer(tokenizer: Any, *, user: str) -> None:
    """Raise `InputError`, with what to write, unless it is a tokenizer."""
    if not callable(getattr(tokenizer, "decode", None)) or not callable(tokenizer):
        raise InputError(
            f"{user} needs the model's tokenizer, got {_shown(tokenizer)}. Load it with "
            "AutoTokenizer.from_pretrained(...)."
        )


def check_policy(policy: Any, *, user: str) -> None:
    """Raise `ConfigError`, with what to write, unless it is a policy."""
    if isinstance(policy, Policy):
        return
    name = policy if isinstance(policy, str) else getattr(policy, "__name__", "")
    if name in NAMES:
        needed = [
            f"{argument}=1024" if argument == "budget" else argument
            for argument, p in inspect.signature(get(name)).parameters.items()
            if p.default is p.empty
        ]
        raise ConfigError(
            f"{user} takes a Policy. {name} is a preset, a function that makes a policy. Write "
            f"presets.{name}({', '.join(needed)})."
        )
    if isinstance(policy, type):
        raise ConfigError(f"{user} takes a Policy, got the class {name}. Write {name}(...).")
    raise ConfigError(
        f"{user} takes a Policy, got {_shown(policy)}. Make one with Policy(...), or take one of "
        f"the presets: {', '.join(NAMES)}."
    )


def _shown(value: Any) -> str:
    """A value as an error shows it."""
    return repr(value) if isinstance(value, str) else kind_of(value)


def check_family(model: PreTrainedModel) -> None:
    """Raise `UnsupportedModelError` unless the runtime was tested with the model's family."""
    config = model.config
    check_model_type(config.model_type)
    if model.device.type == "meta":
        raise UnsupportedModelError(
            "The model's first weights are not in memory: they were offloaded to disk, or never "
            'loaded. Keep the embeddings in memory: device_map={"model.embed_tokens": "cpu", ...}. '
            "Layers may stay on disk."
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
            "Every layer of the model has sliding-window attention. Its cache is bounded already: "
            "a policy has nothing to evict."
        )


def check_prompt(budget: Budget | None, tokens: int, index: int) -> None:
    """Raise `InputError` if a protected prompt fills the budget."""
    if budget is None or not budget.prompt or budget.tokens is None:
        return
    if max(tokens, budget.sinks) + budget.window >= budget.tokens:
        raise InputError(
            f"Prompt {index} has {tokens} tokens. Budget(prompt=True) protects them and a window "
            f"of {budget.window}, which leaves no room in a budget of {budget.tokens}. Raise the "
            "budget or do not protect the prompt."
        )


def check_all_full(config: PretrainedConfig) -> None:
    """Raise `UnsupportedModelError` if some layers have a sliding window.

    transformers' cache for such layers has one length for a whole batch. The engine's sequences
    differ in length.
    """
    missing = config.num_hidden_layers - len(full_attention_layers(config))
    if missing:
        raise UnsupportedModelError(
            f"{missing} of {config.num_hidden_layers} layers have sliding-window attention, which "
            "the Engine does not decode. Use skipkv.attach(model, policy) with model.generate(): "
            "it leaves those layers to their own caches."
        )
