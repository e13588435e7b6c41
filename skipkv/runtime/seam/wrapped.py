"""The model inside a wrapper, such as an adapter or a compiled model."""

from typing import Any, cast

import torch
from transformers import PreTrainedModel

from skipkv._validators import kind_of
from skipkv.errors import InputError, UnsupportedModelError


def causal_lm(model: Any, *, user: str) -> PreTrainedModel:
    """The module whose forward passes decode: the given model, or the model inside a wrapper.

    Wrappers such as a PEFT adapter, `torch.compile(model)` or a value head pass `generate()` on to
    a model inside. This function returns the inner model.

    Args:
        model: what a user gave.
        user: the name of the call, for errors.

    Raises:
        InputError: it is not a module, has no language model's head, was compiled in place, or
            wraps no model or several.
        UnsupportedModelError: an adapter that puts virtual tokens before the prompt.
    """
    wrapped = model
    while hasattr(model, "_orig_mod"):  # torch.compile(model)
        model = model._orig_mod
    if not isinstance(model, torch.nn.Module):
        hint = (
            " To load one by name: Engine.from_pretrained(name, policy=...)."
            if isinstance(model, str)
            else ""
        )
        came = repr(wrapped) if isinstance(wrapped, str) else kind_of(wrapped)
        raise InputError(f"{user} needs a transformers causal language model, got {came}.{hint}")
    if not isinstance(model, PreTrainedModel):
        active = getattr(model, "active_peft_config", None)
        if getattr(active, "is_prompt_learning", False):
            raise UnsupportedModelError(
                f"{type(active).__name__} puts virtual tokens before every prompt. These are not "
                "in input_ids, so skipkv cannot count them. Adapters that change weights, such as "
                "LoRA, are supported."
            )
        if getattr(active, "alora_invocation_tokens", None):
            raise UnsupportedModelError(
                "The adapter is an activated LoRA, which acts from its invocation tokens on. The "
                "wrapper works out where that is, for its own generate() only. Train a LoRA "
                "without alora_invocation_tokens, or decode with the adapter's own generate(), "
                "without a policy."
            )
        model = _generator_in(model, user)
    if not model.can_generate():
        raise InputError(
            f"{user} needs a causal language model, got {type(model).__name__}, which has no "
            "language model's head. Load it with AutoModelForCausalLM."
        )
    if getattr(model, "_compiled_call_impl", None) is not None:
        raise InputError(
            f"The model was compiled in place (model.compile()), which would compile skipkv's "
            f"hooks too. Give {user} a model that is not compiled, or torch.compile(model)."
        )
    return cast(PreTrainedModel, model)


def _generator_in(wrapper: torch.nn.Module, user: str) -> PreTrainedModel:
    """The one model that generates inside a wrapper."""
    found: list[PreTrainedModel] = []
    for part in wrapper.modules():
        inside = any(part is inner for outer in found for inner in outer.modules())
        if isinstance(part, PreTrainedModel) and part.can_generate() and not inside:
            found.append(part)
    if len(found) != 1:
        raise InputError(
            f"{user} got {type(wrapper).__name__}, a module with {len(found)} transformers models "
            "inside that can generate. Give the one model that decodes."
        )
    return found[0]
