"""Which models the runtime decodes, checked before anything runs."""

import inspect
from typing import Any

from transformers import PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

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
    return CacheShape(
        layers=len(full_attention_layers(config)),
        heads=heads,
        groups=config.num_attention_heads // heads,
        dim=dim,
    )


def check_given(model: Any, tokenizer: Any, policy: Any, *, user: str) -> None:
    """Raise an error that says what to write for a model, tokenizer or policy of another kind.

    Args:
        model: what a user gave as one.
        tokenizer: likewise.
        policy: likewise.
        user: the name of the call, for errors.

    Raises:
        InputError: the model is none that generates text, or the tokenizer is none.
        ConfigError: the policy is none.
    """
    if isinstance(model, PreTrainedTokenizerBase):
        raise InputError(
            f"{user} takes the model first and then its tokenizer; they are the other way round."
        )
    if not callable(getattr(tokenizer, "decode", None)) or not callable(tokenizer):
        raise InputError(
            f"{user} needs the model's tokenizer, got {_shown(tokenizer)}. Load it with "
            "AutoTokenizer.from_pretrained(...)."
        )
    check_policy(policy, user=user)


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
            f"{user} takes a Policy, and {name} is the name of a preset, a function that makes "
            f"one. Write presets.{name}({', '.join(needed)})."
        )
    if isinstance(policy, type):
        raise ConfigError(f"{user} takes a Policy, got the class {name}. Write {name}(...).")
    raise ConfigError(
        f"{user} takes a Policy, got {_shown(policy)}. Make one with Policy(...), or take one of "
        f"the presets: {', '.join(NAMES)}."
    )


def _shown(value: Any) -> str:
    """A value as an error shows it."""
    return repr(value) if value is None or isinstance(value, str) else f"a {type(value).__name__}"


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
