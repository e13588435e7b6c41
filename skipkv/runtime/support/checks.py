"""Checks of models, tokenizers and policies, made before any decoding."""

import inspect
from typing import Any

from transformers import PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

from skipkv._validators import kind_of
from skipkv.errors import ConfigError, InputError, UnsupportedModelError
from skipkv.evictors.protocol import mixes_layers, most_of
from skipkv.models.architecture import Architecture
from skipkv.policy import Budget, Policy
from skipkv.presets import NAMES, get
from skipkv.runtime.store.slots import CacheShape


def cache_shape(config: PretrainedConfig, *, ranks: int = 1) -> CacheShape:
    """The axes of a model's cache, or of the part of it that one of so many ranks has."""
    found = Architecture.of(config)
    return CacheShape(
        layers=len(found.full),
        heads=found.heads // ranks,
        groups=found.groups,
        dim=found.dim,
        numbers=found.full,
        depth=found.layers,
        windowed=len(found.windowed),
        window=found.window or 0,
        states=bool(found.states),
    )


def layer_groups(policy: Policy, layers: int, heads: int) -> dict[tuple[int, ...], int | None]:
    """Which layers have the same budget, and the slots of their heads.

    Args:
        policy: its budget may give layers different shares.
        layers: how many layers are cached under the budget.
        heads: KV heads of each; one that has the budgets of all needs no more slots than these.

    Returns:
        For each group, by the indices of its layers, the most entries that a head can come to
        hold; None where the cache grows.

    Raises:
        ConfigError: the budget has shares for another number of layers.
    """
    if policy.budget is None:
        return {tuple(range(layers)): None}
    budgets = policy.budget.of_layers(layers)
    return {
        tuple(i for i, own in enumerate(budgets) if own == budget): None
        if budget.tokens is None
        else min(most_of(policy.evictor, budget.tokens), heads * budget.tokens) + budget.interval
        for budget in dict.fromkeys(budgets)
    } or {(): None}


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


def check_architecture(model: PreTrainedModel) -> Architecture:
    """The architecture of a model that is about to decode.

    Raises:
        UnsupportedModelError: the runtime cannot decode it, or its weights are not in memory.
    """
    if model.device.type == "meta":
        raise UnsupportedModelError(
            "The model's first weights are not in memory: they were offloaded to disk, or never "
            'loaded. Keep the embeddings in memory: device_map={"model.embed_tokens": "cpu", ...}. '
            "Layers may stay on disk."
        )
    return Architecture.of(model.config)


def least_budget(policy: Policy, config: PretrainedConfig) -> Budget | None:
    """The smallest budget of a model's layers; None where nothing is evicted.

    Raises:
        ConfigError: the budget has shares for another number of layers.
    """
    budget = policy.budget
    return None if budget is None else budget.least(len(Architecture.of(config).full))


def check_layers(policy: Policy, config: PretrainedConfig) -> None:
    """Raise `ConfigError` if an evictor joins layers of which some are not evicted from."""
    found = Architecture.of(config)
    if mixes_layers(policy.evictor) and len(found.full) < found.layers:
        raise ConfigError(
            f"{policy.evictor!r} keeps the same tokens in all {found.layers} layers. Of this model "
            f"{found.layers - len(found.full)} layers hold a window or a state, from which nothing "
            "is evicted. Take an evictor that chooses for each layer."
        )


def check_prompt(
    budget: Budget | None, tokens: int, name: str, *, shared: Budget | None = None
) -> None:
    """Raise `InputError` if a protected prompt fills a budget, as a rule the `least_budget`.

    Args:
        budget: of a layer.
        tokens: of the prompt.
        name: of the prompt, for the error.
        shared: what layers divide, for the error.
    """
    if budget is None or not budget.prompt or budget.tokens is None:
        return
    if max(tokens, budget.sinks) + budget.window >= budget.tokens:
        whose = ""
        if shared is not None and shared.layers is not None:
            whose = f", the smallest of the layers, which hold {shared.tokens} on average"
        raise InputError(
            f"{name} has {tokens} tokens. Budget(prompt=True) protects them and a window "
            f"of {budget.window}, which leaves no room in a budget of {budget.tokens}{whose}. "
            "Raise the budget or do not protect the prompt."
        )
