"""The cache that transformers' models see: it hands each layer's entries to the pass under way.

A new version of transformers may change what this folder relies on. So argument names come from the
model's own signature, and every pass ends with a check that each layer wrote to the cache and
attended through it. A change in transformers can then raise an error, but never switch a policy off
silently.
"""

import threading
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from transformers import PretrainedConfig
from transformers.cache_utils import Cache, CacheLayerMixin, DynamicCache

from skipkv.errors import UnsupportedModelError
from skipkv.models.architecture import Architecture
from skipkv.runtime.seam.names import versions
from skipkv.runtime.store.attention import attend
from skipkv.runtime.store.decode import SlotSteps
from skipkv.runtime.store.forward import Forward, Prompts, SlotPrompts, Steps
from skipkv.runtime.store.softmax import PLAIN, Softmax
from skipkv.runtime.store.states import StateLayer
from skipkv.runtime.store.writing import Writing


class ThisThread(threading.local):
    """The cache whose pass is under way in this thread, and who looks at queries outside one."""

    cache: "SlotCache | None" = None
    see: Callable[[int, Tensor], None] | None = None


this_thread = ThisThread()


def under_way() -> "SlotCache | None":
    """The cache whose forward pass is under way in this thread; None outside a pass.

    Hooks and attention ask this function. So a call of the model from another thread, or without
    our cache, gets what it would get without skipkv.
    """
    return this_thread.cache


class SlotLayer(CacheLayerMixin):
    """One layer of a `SlotCache`: hands keys and values to the forward pass now under way.

    Args:
        cache: the cache.
        layer: its number in the model.
    """

    is_sliding = False

    def __init__(self, cache: "SlotCache", layer: int) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._cache = cache
        self._layer = layer
        self.is_initialized = True

    def lazy_initialization(self, *args: Any, **kwargs: Any) -> None:
        """Nothing to do: the store is allocated whole, before the first pass."""

    def update(
        self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        """Store the new entries and return those the pass may attend to."""
        return self._cache.write(self._layer, key_states, value_states)

    def get_seq_length(self) -> int:
        """Columns fed so far, evicted or not: positions continue from there."""
        return self._cache.columns

    def get_mask_sizes(self, query_length: Any) -> tuple[int, int]:
        """Only the stock mask functions ask; ours answers None before sizes matter."""
        return self._cache.columns, 0

    def get_max_length(self) -> int:
        """No limit: positions are not bounded, entries are."""
        return -1

    get_max_cache_shape = get_max_length  # its name before transformers 5.14

    def reset(self) -> None:
        """Refused: sequences are forgotten one by one, by the session that owns the store."""
        raise UnsupportedModelError("A skipkv cache cannot be reset; start a new generation.")

    def reorder_cache(self, beam_idx: Tensor) -> None:
        """Refused: beam search copies whole histories, which differ per row once evicted."""
        raise UnsupportedModelError(
            "Beam search is not supported under a skipkv policy. Use greedy decoding or sampling "
            "(num_beams=1)."
        )

    def batch_repeat_interleave(self, repeats: int) -> None:
        """Refused: rows belong to the session that owns the store."""
        raise UnsupportedModelError(
            "Rows of a skipkv cache can be neither repeated nor chosen. Start a new generation "
            "with the rows that are wanted; for several samples use num_return_sequences."
        )

    def batch_select_indices(self, indices: Tensor) -> None:
        """Refused likewise."""
        self.batch_repeat_interleave(1)

    def crop(self, *args: Any) -> None:
        """Refused: evicted entries cannot come back, so no step can be undone."""
        raise UnsupportedModelError(
            "Assisted decoding takes steps back, which an evicting cache cannot. Generate without "
            "an assistant model."
        )


class SlotStateLayer(SlotLayer, StateLayer):
    """A layer with attention and states: both at once, as in Falcon-H1.

    Args:
        cache: the cache.
        layer: its number in the model.
        states: how many states of each kind the layer has.
    """

    def __init__(self, cache: "SlotCache", layer: int, states: int) -> None:
        SlotLayer.__init__(self, cache, layer)
        StateLayer.__init__(self, layer, states)

    def lazy_initialization(self, *args: Any, **kwargs: Any) -> None:
        """Allocate states; entries have their place already."""
        StateLayer.lazy_initialization(self, *args, **kwargs)


class SlotCache(Cache):
    """A transformers cache whose layers live in a `SlotStore`.

    Args:
        config: the model's; says which layers there are, and which of them have a window.
        dtype: of the store. Under autocast a model computes keys and queries in another dtype.
    """

    def __init__(self, config: PretrainedConfig, *, dtype: torch.dtype) -> None:
        found = Architecture.of(config)
        own = DynamicCache(config=config).layers  # of a layer that caches nothing, transformers'
        attends = {*found.full, *found.windowed}
        text = config.get_text_config(decoder=True)
        states = getattr(text, "number_of_conv_states", None) or 1
        self._states: dict[int, StateLayer] = {
            layer: SlotStateLayer(self, layer, states)
            if layer in attends
            else StateLayer(layer, states)
            for layer in found.states
        }
        super().__init__(
            layers=[
                self._states.get(layer, SlotLayer(self, layer) if layer in attends else own[layer])
                for layer in range(found.layers)
            ]
        )
        self.window, self.horizon = found.window, found.horizon
        self._full, self._windowed = found.full_layers, found.window_layers
        self.columns = 0
        self._dtype = dtype
        self._forward: Forward | None = None
        self._expected = sorted(attends)
        self._written: list[int] = []
        self._attended: list[int] = []
        self._as_configured: set[int] = set()  # layers whose heads have been looked at
        self._remembered: set[int] = set()  # layers that asked for their states
        self.writing: Writing | None = None
        """Asked of the new entries of each layer; None where no part is."""

    @property
    def forward(self) -> Forward:
        """The forward pass under way."""
        if self._forward is None:
            raise UnsupportedModelError(
                "A skipkv cache was used outside the generation it was made for. Call "
                "model.generate() without a cache of your own inside skipkv.attach()."
            )
        return self._forward

    def begin(self, forward: Forward) -> None:
        """Begin a pass: what the layers write next goes where `forward` says.

        Raises:
            UnsupportedModelError: a window of the model's layers would take effect.
        """
        if self.horizon is not None and max(forward.store.tokens_seen) > self.horizon:
            raise UnsupportedModelError(
                f"A sequence is longer than the model's sliding window of {self.horizon} tokens, "
                "which skipkv's cache does not apply. Decode fewer tokens."
            )
        self._forward = forward
        self._written, self._attended = [], []
        self._remembered.clear()
        for layer in self._states.values():
            assert forward.store.states is not None
            layer.begin(forward.store.states, slice(forward.first, forward.last))
        this_thread.cache = self

    def abandon(self) -> None:
        """Forget the pass under way, because it failed."""
        self._forward = None
        if this_thread.cache is self:
            this_thread.cache = None

    def end(self, columns: int) -> None:
        """End a pass that fed `columns` columns, and check what the layers did.

        Raises:
            UnsupportedModelError: a layer did not write to the store, or did not attend through
                it, exactly once. The pass was then not decoded under the policy.
        """
        self.abandon()
        self.columns += columns
        for what, layers in (
            ("wrote to skipkv's cache", self._written),
            ("attended through it", self._attended),
        ):
            if layers != self._expected and sorted(layers) != self._expected:
                raise UnsupportedModelError(
                    f"Of {len(self._expected)} attention layers, {len(set(layers))} {what}, in "
                    f"{len(layers)} calls, during one forward pass; each must do so exactly once. "
                    "The policy did not govern this pass. The model does not use its cache and "
                    "attention as transformers' own models do. Possible causes: the model has "
                    "code of its own, gradient checkpointing is on (call model.eval() before you "
                    "generate), or skipkv does not know this version of transformers. "
                    f"{versions()}"
                )

        if missing := self._states.keys() - self._remembered:
            raise UnsupportedModelError(
                f"{len(missing)} of {len(self._states)} layers with states did not ask skipkv's "
                f"cache for them during one forward pass. {versions()}"
            )

    def get_conv_state(self, layer_idx: int, *args: Any, **kwargs: Any) -> Tensor | None:
        """A layer's state, as transformers has it."""
        self._remembered.add(layer_idx)
        return super().get_conv_state(layer_idx, *args, **kwargs)

    def get_recurrent_state(self, layer_idx: int, *args: Any, **kwargs: Any) -> Tensor | None:
        """A layer's state, as transformers has it."""
        self._remembered.add(layer_idx)
        return super().get_recurrent_state(layer_idx, *args, **kwargs)

    def write(self, layer: int, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Store a layer's new entries; returns those the pass may attend to. No gradient passes."""
        if torch.is_grad_enabled():  # under attach; the context takes time in every layer
            with torch.no_grad():
                return self.write(layer, keys, values)
        part, at = self._part(layer)
        self._written.append(layer)
        if layer not in self._as_configured:
            shape = self.forward.store.shape
            self._check_heads("keys", keys, shape.heads, shape.dim)
            self._check_heads("values", values, shape.heads, shape.dim)
        if keys.dtype != self._dtype or values.dtype != self._dtype:
            keys, values = keys.to(self._dtype), values.to(self._dtype)
        if self.writing is not None and isinstance(part, SlotPrompts | SlotSteps):
            self.writing.write(part, at, layer, keys, values)
        return part.write(at, keys, values)

    def _part(self, layer: int) -> tuple[Prompts | Steps, int]:
        """The pass under way as a layer's group knows it, and the layer's index there."""
        if layer in self._full:
            return self.forward.of[self._full[layer]]
        windows = self.forward.windows
        assert windows is not None
        return windows, self._windowed[layer]

    def _check_heads(self, what: str, given: Tensor, heads: int, dim: int) -> None:
        """Raise `UnsupportedModelError` unless keys, values or queries are as the config says."""
        if given.shape[1] == heads and given.shape[3] == dim:
            return
        raise UnsupportedModelError(
            f"The model's attention has {what} of {given.shape[1]} heads with {given.shape[3]} "
            f"numbers each. By its config they would be {heads} heads with {dim}: skipkv's cache "
            "has the same KV heads in all layers, and one size for keys and values. Decode it with "
            "its own generate(), without a policy."
        )

    def window_of(self, layer: int) -> int | None:
        """Tokens that a layer of the model attends to; None for the whole past."""
        return self.window if layer in self._windowed else None

    def attend(
        self,
        layer: int,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        scale: float,
        softmax: Softmax = PLAIN,
    ) -> Tensor:
        """Attention of the pass under way."""
        part, at = self._part(layer)
        self._attended.append(layer)
        if layer not in self._as_configured:
            shape = self.forward.store.shape
            self._check_heads("queries", query, shape.heads * shape.groups, shape.dim)
            self._check_heads("keys", key, shape.heads, shape.dim)
            self._as_configured.add(layer)
        if query.dtype == self._dtype:
            return attend(part, at, query, key, value, scale, softmax)
        output = attend(part, at, query.to(self._dtype), key, value, scale, softmax)
        return output.to(query.dtype)
