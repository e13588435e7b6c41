"""The attention and the mask that transformers' models call, registered under the name "skipkv".

Outside our passes both do what the model's own would do.
"""

import sys
from collections.abc import Callable
from functools import cache
from typing import Any, cast

import torch
from jaxtyping import Float
from torch import Tensor
from transformers import AttentionInterface, AttentionMaskInterface, PretrainedConfig

from skipkv.errors import UnsupportedModelError
from skipkv.runtime.seam.cache import SlotCache, this_thread, under_way
from skipkv.runtime.store.softmax import PLAIN, Softmax

NAME = "skipkv"
"""The name under which attention and masks are registered with transformers."""
originals: dict[int, str] = {}
"""The original attention of borrowed models, by their configs' id, for calls outside our passes."""


def _mask_function(
    *args: Any, config: PretrainedConfig | None = None, **kwargs: Any
) -> Tensor | None:
    """The stock mask; None in a pass of ours, where the cache has the masks."""
    if under_way() is not None:
        return None
    stock = AttentionMaskInterface()[_original(config)]
    return cast(Tensor | None, stock(*args, config=config, **kwargs))


def _attention_forward(
    module: torch.nn.Module,
    query: Float[Tensor, "B Q T D"],
    key: Float[Tensor, "B H L D"],
    value: Float[Tensor, "B H L D"],
    attention_mask: Tensor | None,
    scaling: float | None = None,
    **kwargs: Any,
) -> tuple[Float[Tensor, "B T Q D"], Tensor | None]:
    """The signature of transformers' attention functions; `Q` is `H * G` query heads.

    Raises:
        UnsupportedModelError: the layer asks for something that our attention does not compute.
    """
    cache = under_way()
    if cache is None:
        if this_thread.see is not None:
            this_thread.see(cast(int, module.layer_idx), query)
        stock = _stock_attention(module)
        return stock(module, query, key, value, attention_mask, scaling=scaling, **kwargs)  # type: ignore[no-any-return]
    if attention_mask is not None:
        kwargs["attention_mask"] = attention_mask
    layer = cast(int, module.layer_idx)
    window = cache.window_of(layer)
    _check_keywords(kwargs, window=window, horizon=cache.horizon)
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    softmax = PLAIN
    if kwargs.get("softcap") is not None or kwargs.get("s_aux") is not None:
        softmax = Softmax(softcap=kwargs.get("softcap"), sinks=kwargs.get("s_aux"))
    return cache.attend(layer, query, key, value, scale, softmax), None


# Keywords of attention functions that change nothing here. Models also pass on what they were
# called with themselves.
_HARMLESS = {
    *("position_ids", "cache_position", "use_cache", "logits_to_keep", "return_dict"),
    *("output_attentions", "output_hidden_states", "output_router_logits"),
    "tokenizer",  # generate() hands it down when it was given one for stop strings
}
_HONOURED = {"softcap", "s_aux"}


def _check_keywords(given: dict[str, Any], *, window: int | None, horizon: int | None) -> None:
    """Raise `UnsupportedModelError` for a keyword that would change the attention.

    Args:
        given: the keywords.
        window: the layer's window; None if it attends to the whole past.
        horizon: of the model: see `Architecture`.
    """
    for name, value in given.items():
        if value is None or name in _HARMLESS or name in _HONOURED:
            continue
        if name == "is_causal":
            if value:
                continue
        elif not isinstance(value, Tensor) and not value:
            continue
        if name == "sliding_window":
            if value == window or (window is None and horizon is not None and value >= horizon):
                continue
            if window is not None:
                raise UnsupportedModelError(
                    f"A layer is called with a sliding window of {value} tokens; by the model's "
                    f"config it is {window}."
                )
        raise UnsupportedModelError(_WHY.get(name, _UNKNOWN.format(name=name)))


_UNKNOWN = (
    "The model calls its attention with {name!r}, which skipkv's attention does not compute. "
    "Decoding would differ from the model's own."
)
_WHY = {
    "dropout": "The model drops attention weights at random, because it is in training mode. Call "
    "model.eval() before you generate.",
    "is_causal": "A layer of the model attends to tokens that come later (is_causal=False). skipkv "
    "decodes causal language models.",
    "sliding_window": "A layer that attends to the whole past, by the model's config, is called "
    "with a sliding window. skipkv's cache does not apply it. A config says which layers have one "
    "in `layer_types`, or by `sliding_window` if all have.",
    "attention_mask": "The model adds a mask or a position bias of its own to its attention. "
    "skipkv's cache knows no positions that such a mask could refer to.",
}


def _original(config: PretrainedConfig | None) -> str:
    """The original attention of a borrowed model."""
    name = originals.get(id(config))
    if name is None:
        raise UnsupportedModelError(
            f'A model with the attention "{NAME}" was called, but neither an Engine nor '
            "skipkv.attach uses it: the model or its config was copied while one did. Call "
            "model.set_attn_implementation('sdpa') on the copy."
        )
    return name


def _stock_attention(module: torch.nn.Module) -> Callable[..., Any]:
    """The attention function that a module would call without us."""
    name = _original(cast(PretrainedConfig, module.config))
    if name == "eager":  # each modeling file of transformers has its own
        own: Callable[..., Any] = vars(sys.modules[type(module).__module__])[
            "eager_attention_forward"
        ]
        return own
    registered: Callable[..., Any] = AttentionInterface()[name]
    return registered


AttentionInterface.register(NAME, _attention_forward)
AttentionMaskInterface.register(NAME, _mask_function)


@cache
def stay_uncompiled() -> None:
    """Keep our cache and attention out of all that torch compiles from now on.

    What is compiled calls them as they are. This is done once and only if layers are compiled,
    because importing the compiler takes a second.
    """
    SlotCache.update = torch.compiler.disable(SlotCache.update)  # type: ignore[method-assign]
    AttentionInterface.register(NAME, torch.compiler.disable(_attention_forward))
