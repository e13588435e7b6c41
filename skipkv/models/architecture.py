"""What the runtime must know of a model's architecture, read from its config and its modules."""

from collections.abc import Iterator, Mapping
from inspect import signature
from types import MappingProxyType
from typing import Any

import attrs
import torch
from transformers import PretrainedConfig, PreTrainedModel, cache_utils
from transformers.cache_utils import DynamicCache, DynamicLayer

from skipkv.errors import UnsupportedModelError

FULL, SLIDING = "full_attention", "sliding_attention"
BOTH = "hybrid"
STATES = ("linear_attention", "conv", BOTH)
NONE = ("moe", "mlp")
"""The kinds of layers that are decoded, in transformers' words.

Layers of kind `BOTH` have full attention and states. Those in `NONE` cache nothing.
"""

_layer = getattr(cache_utils, "LinearAttentionLayer", None)
_known = _layer is not None and "number_of_states" in signature(_layer.__init__).parameters
STATE_LAYER: Any = _layer if _known else None
"""How transformers caches layers with states; None in a version that does it in another way."""
_BOTH_LAYER: Any = getattr(cache_utils, "LinearAttentionAndFullAttentionLayer", None)

# What to do about a model that is refused.
_OWN = "Decode it with its own generate(), without a policy."

# Architectures whose configs do not show what is missing, by `model_type`.
_REFUSED: Mapping[str, str] = MappingProxyType(
    dict.fromkeys(
        ("falcon", "bloom", "mpt"),
        "Its layers compute attention themselves, not through transformers' attention interface, "
        f"so a policy's cache cannot take their place. {_OWN}",
    )
)


@attrs.frozen(kw_only=True)
class Architecture:
    """The layers of a causal language model and the axes of its cache.

    Args:
        layers: number of decoder layers.
        full: the layers that attend to the whole past, ascending. A layer with a window that is at
            least as long as all the positions that the model was made for is one of them.
        windowed: the layers that attend to a window only, ascending.
        window: tokens that these attend to; None where there are none.
        states: the layers with states, such as linear attention, ascending. They have them in the
            place of entries, or beside them.
        horizon: tokens after which a window of the layers in `full` would take effect; None where
            they have none.
        heads: KV heads of a layer.
        groups: query heads per KV head.
        dim: head size.
        hidden_size: size of the hidden states.
    """

    layers: int
    full: tuple[int, ...]
    windowed: tuple[int, ...]
    window: int | None
    states: tuple[int, ...]
    horizon: int | None
    heads: int
    groups: int
    dim: int
    hidden_size: int

    @classmethod
    def of(cls, config: PretrainedConfig) -> "Architecture":
        """Read a model's config.

        Args:
            config: the model's, or one that has a text model's config inside.

        Raises:
            UnsupportedModelError: the runtime cannot decode such a model. The error says what is
                missing.

        Example:
            >>> from transformers import MistralConfig
            >>> config = MistralConfig(num_hidden_layers=2, sliding_window=None)
            >>> Architecture.of(config).full
            (0, 1)
        """
        text: Any = config.get_text_config(decoder=True)
        kind = text.model_type
        if kind in _REFUSED:
            raise UnsupportedModelError(
                f"Models of type {kind!r} are not decoded. {_REFUSED[kind]}"
            )
        missing = [
            name
            for name in ("num_hidden_layers", "num_attention_heads", "hidden_size")
            if getattr(text, name, None) is None
        ]
        if missing:
            raise UnsupportedModelError(
                f"The config of this {kind!r} model has no {', '.join(missing)}. skipkv decodes "
                f"models that are a stack of layers with attention and a KV cache. {_OWN}"
            )
        kinds, window = _kinds(text)
        longest = getattr(text, "max_position_embeddings", None)
        harmless = window is not None and longest is not None and window >= longest
        full = tuple(
            i for i, of in enumerate(kinds) if of in (FULL, BOTH) or (of == SLIDING and harmless)
        )
        windowed = tuple(i for i, of in enumerate(kinds) if of == SLIDING and not harmless)
        if not full:
            raise UnsupportedModelError(_nothing_to_evict(text, window, kinds))
        _check_cached(text, kinds)
        heads = text.num_attention_heads
        kv_heads = getattr(text, "num_key_value_heads", None) or heads
        return cls(
            layers=len(kinds),
            full=full,
            windowed=windowed,
            window=window if windowed else None,
            states=tuple(i for i, of in enumerate(kinds) if of in STATES),
            horizon=window if harmless else None,
            heads=kv_heads,
            groups=heads // kv_heads,
            dim=_head_size(text),
            hidden_size=text.hidden_size,
        )

    @property
    def full_layers(self) -> dict[int, int]:
        """Layer of the model -> layer of the store, for the layers in `full`."""
        return {layer: index for index, layer in enumerate(self.full)}

    @property
    def window_layers(self) -> dict[int, int]:
        """Layer of the model -> layer of the window store, for the layers in `windowed`."""
        return {layer: index for index, layer in enumerate(self.windowed)}


def text_config(model: PreTrainedModel) -> Any:
    """The config of what decodes text: a part of the config of a model that also sees, say."""
    return model.config.get_text_config(decoder=True)


def decoder_layers(model: PreTrainedModel) -> torch.nn.ModuleList:
    """A model's decoder layers, in order: the list in whose i-th member attention has number i.

    Raises:
        UnsupportedModelError: the model has no such list.
    """
    number = text_config(model).num_hidden_layers
    for part in model.modules():
        if (
            isinstance(part, torch.nn.ModuleList)
            and len(part) == number
            and all(i in _numbers(layer) for i, layer in enumerate(part))
        ):
            return part
    raise UnsupportedModelError(
        f"{type(model).__name__} has no list of {number} decoder layers whose attention modules "
        f"are numbered by `layer_idx`, as transformers' own models have. {_OWN}"
    )


def attention_modules(model: PreTrainedModel) -> list[torch.nn.Module]:
    """The module of each decoder layer that calls the attention function."""
    return [
        next(part for part in layer.modules() if part is not layer and hasattr(part, "layer_idx"))
        for layer in decoder_layers(model)
    ]


def _numbers(layer: torch.nn.Module) -> Iterator[int]:
    """The numbers that a layer's modules have."""
    return (part.layer_idx for part in layer.modules() if hasattr(part, "layer_idx"))  # type: ignore[misc]


def _kinds(text: Any) -> tuple[list[str], int | None]:
    """The kind of each layer, and the window of those that have one."""
    number = text.num_hidden_layers
    window = getattr(text, "sliding_window", None)
    types = getattr(text, "layer_types", None)
    if types is None:
        chunked = getattr(text, "attention_chunk_size", None) is not None
        one = SLIDING if window is not None else "chunked_attention" if chunked else FULL
        types = [one] * number
    if unknown := set(types) - {FULL, SLIDING, *STATES, *NONE}:
        if "chunked_attention" in unknown:
            raise UnsupportedModelError(
                "The model has layers of type chunked_attention, which forget all tokens where a "
                "chunk ends. The windows of skipkv's cache slide: they do not begin anew, so such "
                f"layers have no place in it yet. {_OWN}"
            )
        raise UnsupportedModelError(
            f"The model has layers of type {', '.join(sorted(unknown))}. Layers with full or "
            "sliding-window attention, linear attention or a convolution are decoded; what others "
            f"store has no place in skipkv's cache yet. {_OWN}"
        )
    return list(types), window if SLIDING in types else None


def _check_cached(text: Any, kinds: list[str]) -> None:
    """Raise `UnsupportedModelError` unless each layer has its own keys and values, and no more."""
    number = text.num_hidden_layers
    if shared := getattr(text, "num_kv_shared_layers", None):
        raise UnsupportedModelError(
            f"{shared} of {number} layers read keys and values of other layers. skipkv's cache has "
            "no place for that yet."
        )
    layers = DynamicCache(config=text).layers
    if len(layers) != number or len(kinds) != number:
        raise UnsupportedModelError(
            f"The model has {number} layers, and transformers caches {len(layers)}; each layer "
            "must have keys and values of its own."
        )
    for kind, layer in zip(kinds, layers, strict=True):
        if kind == FULL and type(layer) is not DynamicLayer:
            raise UnsupportedModelError(
                f"transformers caches full-attention layers of this model as "
                f"{type(layer).__name__}, which holds more than keys and values. skipkv's cache "
                "has no place for that yet."
            )
        if kind in STATES and type(layer) is not (_BOTH_LAYER if kind == BOTH else STATE_LAYER):
            raise UnsupportedModelError(
                f"transformers caches layers of type {kind} as {type(layer).__name__}, which "
                "skipkv does not know how to fill. transformers 5.23 has a cache that it knows."
            )


def _head_size(text: Any) -> int:
    """The size of keys and values.

    Raises:
        UnsupportedModelError: keys and values differ in size.
    """
    values = getattr(text, "v_head_dim", None)
    if values is not None and getattr(text, "qk_nope_head_dim", None) is not None:
        raise UnsupportedModelError(
            f"Models of type {text.model_type!r} have multi-head latent attention, with keys of "
            f"{text.qk_nope_head_dim + text.qk_rope_head_dim} and values of {values} numbers. "
            f"skipkv's cache has one size for both. {_OWN}"
        )
    try:
        size: int = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
    except Exception as cause:  # transformers has a class of its own for this error
        if "per-layer" not in str(cause):
            raise
        raise UnsupportedModelError(
            f"The layers of this {text.model_type!r} model have heads of different sizes. "
            f"skipkv's cache has one size for all layers. {_OWN}"
        ) from cause
    return size


def _nothing_to_evict(text: Any, window: int | None, kinds: list[str]) -> str:
    if SLIDING not in kinds:
        return (
            f"No layer of the model has full attention: they are of type "
            f"{', '.join(sorted(set(kinds)))}. What it caches is bounded already: a policy has "
            f"nothing to evict. {_OWN}"
        )
    said = (
        f"Every layer of the model has sliding-window attention (window: {window}). Its cache is "
        f"bounded already: a policy has nothing to evict. {_OWN}"
    )
    if getattr(text, "layer_types", None) is None:
        said += (
            f" To decode at most {window} tokens, prompt included, the windows are not needed: "
            "load the model with from_pretrained(..., sliding_window=None)."
        )
    return said
