"""The seam with transformers: our cache, attention and masks, and the exclusive use of a model.

A new version of transformers may change what this file relies on. So argument names come from the
model's own signature, and every pass ends with a check that each layer wrote to the cache and
attended through it. A change in transformers can then raise an error, but never switch a policy off
silently.
"""

import inspect
import sys
import threading
import warnings
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any, cast
from weakref import WeakKeyDictionary

import torch
import transformers
from jaxtyping import Float
from torch import Tensor
from transformers import (
    AttentionInterface,
    AttentionMaskInterface,
    PretrainedConfig,
    PreTrainedModel,
)
from transformers.cache_utils import Cache, CacheLayerMixin, DynamicCache

from skipkv._validators import kind_of
from skipkv.errors import InputError, SkipKVWarning, UnsupportedModelError
from skipkv.models.architecture import Architecture
from skipkv.runtime.attention import attend
from skipkv.runtime.decode import SlotSteps
from skipkv.runtime.forward import Forward, Prompts, SlotPrompts, Steps
from skipkv.runtime.softmax import PLAIN, Softmax
from skipkv.runtime.states import StateLayer
from skipkv.runtime.writing import Writing

OLDEST, NEWEST = "5.0.0", "5.24.0"
"""The range of transformers' versions that the tests run with."""
NAME = "skipkv"
"""The name under which attention and masks are registered with transformers."""
ATTACH = "skipkv.attach"
"""The name, in errors, of the borrower of a model that a policy is attached to."""
CACHE_NAMES = ("cache", "past_key_values")
"""The names that models give to their cache argument, the newest first."""


# --- the pass under way -------------------------------------------------------------------------


class _ThisThread(threading.local):
    """The cache whose pass is under way in this thread, and who looks at queries outside one."""

    cache: "SlotCache | None" = None
    see: Callable[[int, Tensor], None] | None = None


_this_thread = _ThisThread()


def under_way() -> "SlotCache | None":
    """The cache whose forward pass is under way in this thread; None outside a pass.

    Hooks and attention ask this function. So a call of the model from another thread, or without
    our cache, gets what it would get without skipkv.
    """
    return _this_thread.cache


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
        _this_thread.cache = self

    def abandon(self) -> None:
        """Forget the pass under way, because it failed."""
        self._forward = None
        if _this_thread.cache is self:
            _this_thread.cache = None

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
                    f"{_versions()}"
                )

        if missing := self._states.keys() - self._remembered:
            raise UnsupportedModelError(
                f"{len(missing)} of {len(self._states)} layers with states did not ask skipkv's "
                f"cache for them during one forward pass. {_versions()}"
            )

    def get_conv_state(self, layer_idx: int, *args: Any, **kwargs: Any) -> Tensor | None:
        """A layer's state, as transformers has it."""
        self._remembered.add(layer_idx)
        return super().get_conv_state(layer_idx, *args, **kwargs)

    def get_recurrent_state(self, layer_idx: int, *args: Any, **kwargs: Any) -> Tensor | None:
        """A layer's state, as transformers has it."""
        self._remembered.add(layer_idx)
        return super().get_recurrent_state(layer_idx, *args, **kwargs)

    @torch.no_grad()
    def write(self, layer: int, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Store a layer's new entries; returns those the pass may attend to. No gradient passes."""
        part, at = self._part(layer)
        self._written.append(layer)
        if layer not in self._as_configured:
            shape = self.forward.store.shape
            self._check_heads("keys", keys, shape.heads, shape.dim)
            self._check_heads("values", values, shape.heads, shape.dim)
        keys, values = keys.to(self._dtype), values.to(self._dtype)
        if self.writing is not None and isinstance(part, SlotPrompts | SlotSteps):
            self.writing.write(part, at, layer, keys, values)
        return part.write(at, keys, values)

    def _part(self, layer: int) -> tuple[Prompts | Steps, int]:
        """The pass under way as a layer's group knows it, and the layer's index there."""
        if layer in self._full:
            return self.forward.of(self._full[layer])
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
        output = attend(part, at, query.to(self._dtype), key, value, scale, softmax)
        return output.to(query.dtype)


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
        if _this_thread.see is not None:
            _this_thread.see(cast(int, module.layer_idx), query)
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


# --- the exclusive use of a model ---------------------------------------------------------------


class _Loan:
    """The current borrower of a model: one at a time may exchange its attention and its cache."""

    def __init__(self) -> None:
        self.changed = threading.Condition()
        self.holder: str | None = None
        self.thread = 0
        self.queue: deque[object] = deque()  # of those who wait, first come, first served


_loans: "WeakKeyDictionary[torch.nn.Module, _Loan]" = WeakKeyDictionary()
_new_loan = threading.Lock()
# The original attention of borrowed models, by their configs' id. Calls outside our passes use it.
_originals: dict[int, str] = {}


@contextmanager
def borrowed(model: PreTrainedModel, *, by: str) -> Iterator[None]:
    """Within this context, passes of ours attend through our cache; afterwards as before.

    A model has one borrower at a time. An engine waits while an engine in another thread decodes
    with the model; the one that has waited longest is next. It does not wait for `attach`, which
    may last for ever.

    Args:
        model: the model to borrow.
        by: the borrower: "Engine" or `ATTACH`.

    Raises:
        InputError: a policy is attached to the model, or this thread uses it already.
        UnsupportedModelError: the model's attention is "skipkv", and it has not been borrowed.
    """
    with _new_loan:
        loan = _loans.setdefault(model, _Loan())
    place = object()
    with loan.changed:
        loan.queue.append(place)
        try:
            while loan.holder is not None or loan.queue[0] is not place:
                if loan.holder is not None:
                    _refuse_held(loan)
                loan.changed.wait()
            loan.holder, loan.thread = by, threading.get_ident()
        finally:
            loan.queue.remove(place)
    try:
        with _switched(model):
            yield
    finally:
        with loan.changed:
            loan.holder = None
            loan.changed.notify_all()


@contextmanager
def queries_seen(model: PreTrainedModel, see: Callable[[int, Tensor], None]) -> Iterator[None]:
    """Within this context passes of the model itself show their queries.

    Args:
        model: decodes nothing meanwhile.
        see: called in every attention with the number of the layer and its queries [B, Q, T, D],
            as they are after RoPE.
    """
    with borrowed(model, by="calibration"):
        _this_thread.see = see
        try:
            yield
        finally:
            _this_thread.see = None


def check_free(model: PreTrainedModel) -> None:
    """Raise `InputError` if `borrowed` would raise it now, before any work is done."""
    loan = _loans.get(model)
    if loan is not None and loan.holder is not None:
        _refuse_held(loan)


def _refuse_held(loan: _Loan) -> None:
    same = loan.thread == threading.get_ident()
    if loan.holder == ATTACH or same:
        where = "" if same else " in another thread"
        raise InputError(
            f"The model is in use by {loan.holder}{where}. One policy at a time decodes with a "
            "model: leave the `with skipkv.attach(...)` block first, or load the model twice."
            if loan.holder == ATTACH
            else "The model is in use by an Engine whose decoding called this. Use another model "
            "object, or wait until the Engine has yielded."
        )


@contextmanager
def _switched(model: PreTrainedModel) -> Iterator[None]:
    """Exchange the attention of a model and its parts; restore the original at the end."""
    configs = {
        id(part.config): part.config
        for part in model.modules()
        if isinstance(part, PreTrainedModel)
    }
    before = {key: config._attn_implementation for key, config in configs.items()}
    if NAME in before.values():
        raise UnsupportedModelError(
            f'The attention of this model is "{NAME}", but no policy decodes with the model: it '
            "was copied or saved while a policy was attached to it. Call "
            "model.set_attn_implementation('sdpa') first."
        )
    _originals.update(before)
    try:
        for config in configs.values():
            # What set_attn_implementation() does, which refuses models defined in a notebook. A
            # model that ignores the setting fails at the end of its first pass.
            config._attn_implementation = NAME
        yield
    finally:
        for key, config in configs.items():
            config._attn_implementation = before[key]
            del _originals[key]


def _original(config: PretrainedConfig | None) -> str:
    """The original attention of a borrowed model."""
    name = _originals.get(id(config))
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


@contextmanager
def evaluating(model: PreTrainedModel) -> Iterator[None]:
    """Within this context the model and its parts are in evaluation mode; afterwards as before."""
    training = [part for part in model.modules() if part.training]
    for part in training:
        part.training = False
    try:
        yield
    finally:
        for part in training:
            part.training = True


def no_gradient(model: torch.nn.Module) -> torch.no_grad | torch.inference_mode:
    """A context without gradients: inference mode, where the model's weights work in it.

    Some of quanto's do not: they make views of themselves, as a tensor of inference mode may not.
    """
    kinds = {type(parameter).__module__ for parameter in model.parameters()}
    if any(kind.startswith("optimum.quanto") for kind in kinds):
        return torch.no_grad()
    return torch.inference_mode()


# --- names and versions -------------------------------------------------------------------------


def cache_name(model: torch.nn.Module) -> str:
    """The name of the argument by which a model takes its cache.

    `cache` from transformers 5.24 on, `past_key_values` before.

    Raises:
        UnsupportedModelError: the model's forward takes neither.
    """
    taken = inspect.signature(type(model).forward).parameters
    for name in CACHE_NAMES:
        if name in taken:
            return name
    raise UnsupportedModelError(
        f"{type(model).__name__}.forward takes no cache ({' or '.join(CACHE_NAMES)}). {_versions()}"
    )


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


def _versions(installed: str = transformers.__version__) -> str:
    return (
        f"This is transformers {installed} with torch {torch.__version__}; skipkv "
        f"was tested with transformers {OLDEST} to {NEWEST}."
    )


_warned: set[str] = set()


def check_version(installed: str = transformers.__version__) -> None:
    """Warn once if transformers is newer than the versions the tests run with.

    Args:
        installed: the version of transformers.
    """
    if installed in _warned or _release(installed) <= _release(NEWEST):
        return
    _warned.add(installed)
    warnings.warn(
        f"{_versions(installed)} skipkv checks every pass: a difference raises an error instead of "
        "decoding without the policy.",
        SkipKVWarning,
        stacklevel=3,
    )


def _release(version: str) -> tuple[int, ...]:
    """The leading numbers of a version.

    Example:
        >>> _release("5.24.0.dev0")
        (5, 24, 0)
    """
    numbers = []
    for part in version.split("+")[0].split("."):
        if not part.isdigit():
            break
        numbers.append(int(part))
    return tuple(numbers)
