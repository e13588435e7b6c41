"""All that transformers sees of skipkv: its cache, attention and masks, and the loan of a model.

transformers moves on; this file is where that is noticed. Argument names come from the model's own
signature, and after every pass it is checked that each layer wrote to the cache and attended
through it: a new version of transformers may raise an error here, and can never switch a policy
off.
"""

import inspect
import sys
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
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

from skipkv.errors import InputError, SkipKVWarning, UnsupportedModelError
from skipkv.runtime.attention import attend
from skipkv.runtime.forward import Forward

OLDEST, NEWEST = "5.0.0", "5.24.0"
"""The range of transformers' versions that the tests run with."""
NAME = "skipkv"
"""Under which attention and masks are registered with transformers."""
ATTACH = "skipkv.attach"
"""Who holds a model that a policy is attached to."""
CACHE_NAMES = ("cache", "past_key_values")
"""What models call the cache they are given: the newest name first."""


# --- the pass under way -------------------------------------------------------------------------


class _ThisThread(threading.local):
    """The cache whose pass is under way in this thread."""

    cache: "SlotCache | None" = None


_this_thread = _ThisThread()


def under_way() -> "SlotCache | None":
    """The cache whose forward pass is under way in this thread, if one is.

    Hooks and attention ask it, so that a model which another thread calls meanwhile, or which is
    called without our cache, does what it would do without skipkv.
    """
    return _this_thread.cache


class SlotLayer(CacheLayerMixin):
    """One layer of a `SlotCache`: hands keys and values to the forward pass now under way."""

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


class SlotCache(Cache):
    """A transformers cache whose full-attention layers live in a `SlotStore`.

    Args:
        config: the model's; says which layers there are.
        layers: model layer -> layer of the store. All others keep the cache transformers gives
            them.
        dtype: of the store; under autocast a model computes keys and queries in others.
    """

    def __init__(
        self, config: PretrainedConfig, layers: dict[int, int], *, dtype: torch.dtype
    ) -> None:
        own = DynamicCache(config=config).layers
        super().__init__(
            layers=[
                SlotLayer(self, layers[i]) if i in layers else own[i]
                for i in range(config.num_hidden_layers)
            ]
        )
        self.slot_layers = layers
        self.columns = 0
        self._dtype = dtype
        self._forward: Forward | None = None
        self._expected = sorted(layers.values())
        self._written: list[int] = []
        self._attended: list[int] = []

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
        """Store what follows where `forward` says."""
        self._forward = forward
        self._written, self._attended = [], []
        _this_thread.cache = self

    def abandon(self) -> None:
        """The pass failed: forget it."""
        self._forward = None
        if _this_thread.cache is self:
            _this_thread.cache = None

    def end(self, columns: int) -> None:
        """The pass is over; `columns` have been fed.

        Raises:
            UnsupportedModelError: a layer did not write to the store, or did not attend through
                it, exactly once: the pass was not decoded under the policy.
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
                    f"{len(layers)} calls, during one forward pass; each must exactly once. What "
                    "was decoded is not the policy's. The model's code does not use its cache and "
                    "attention as transformers' own models do: code of its own, gradient "
                    "checkpointing (call model.eval() before you generate), or a version of "
                    "transformers that skipkv does not know. "
                    f"{_versions()}"
                )

    def write(self, layer: int, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Store a layer's new entries; returns those the pass may attend to."""
        forward, dtype = self.forward, self._dtype
        self._written.append(layer)
        return forward.write(layer, keys.to(dtype), values.to(dtype))

    def attend(self, layer: int, query: Tensor, key: Tensor, value: Tensor, scale: float) -> Tensor:
        """Attention of the pass under way."""
        self._attended.append(layer)
        output = attend(self.forward, layer, query.to(self._dtype), key, value, scale)
        return output.to(query.dtype)


def _mask_function(
    *args: Any,
    config: PretrainedConfig | None = None,
    local_size: int | None = None,
    **kwargs: Any,
) -> Tensor | None:
    """None for full attention in a pass of ours, whose mask the cache knows; else the stock one."""
    if local_size is None and under_way() is not None:
        return None
    stock = AttentionMaskInterface()[_original(config)]
    return cast(Tensor | None, stock(*args, config=config, local_size=local_size, **kwargs))


def _attention_forward(
    module: torch.nn.Module,
    query: Float[Tensor, "B Q T D"],
    key: Float[Tensor, "B H L D"],
    value: Float[Tensor, "B H L D"],
    attention_mask: Tensor | None,
    scaling: float | None = None,
    **kwargs: Any,
) -> tuple[Float[Tensor, "B T Q D"], Tensor | None]:
    """The signature of transformers' attention functions; `Q` is `H * G` query heads."""
    cache = under_way()
    layer = None if cache is None else cache.slot_layers.get(cast(int, module.layer_idx))
    if cache is None or layer is None:  # not a pass of ours, or a layer with a cache of its own
        stock = _stock_attention(module)
        return stock(module, query, key, value, attention_mask, scaling=scaling, **kwargs)  # type: ignore[no-any-return]
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    return cache.attend(layer, query, key, value, scale), None


AttentionInterface.register(NAME, _attention_forward)
AttentionMaskInterface.register(NAME, _mask_function)


# --- the loan of a model ------------------------------------------------------------------------


class _Loan:
    """Who uses a model now: one user at a time may exchange its attention and its cache."""

    def __init__(self) -> None:
        self.changed = threading.Condition()
        self.holder: str | None = None
        self.thread = 0


_loans: "WeakKeyDictionary[torch.nn.Module, _Loan]" = WeakKeyDictionary()
_new_loan = threading.Lock()
# The attention of lent models' configs, by id: what calls without a pass of ours are answered with.
_originals: dict[int, str] = {}


@contextmanager
def borrowed(model: PreTrainedModel, *, by: str) -> Iterator[None]:
    """While it lasts, the model attends through our cache in passes of ours; then as before.

    A model has one borrower at a time. An engine waits while an engine in another thread decodes
    with the model; nobody waits for `attach`, which may last for ever.

    Args:
        model: to be borrowed.
        by: who borrows it: "Engine" or `ATTACH`.

    Raises:
        InputError: a policy is attached to the model, or this thread uses it already.
        UnsupportedModelError: the model's attention is "skipkv" though nobody has borrowed it.
    """
    with _new_loan:
        loan = _loans.setdefault(model, _Loan())
    with loan.changed:
        while loan.holder is not None:
            _refuse_held(loan)
            loan.changed.wait()
        loan.holder, loan.thread = by, threading.get_ident()
    try:
        with _switched(model):
            yield
    finally:
        with loan.changed:
            loan.holder = None
            loan.changed.notify()


def check_free(model: PreTrainedModel) -> None:
    """Raise `InputError` if `borrowed` would: known before any work is done."""
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
    """Exchange the attention of a model and its parts; put back what was there."""
    configs = {
        id(part.config): part.config
        for part in model.modules()
        if isinstance(part, PreTrainedModel)
    }
    before = {key: config._attn_implementation for key, config in configs.items()}
    if NAME in before.values():
        raise UnsupportedModelError(
            f'The attention of this model is "{NAME}" though nothing decodes with it: it was '
            "copied or saved while a policy was attached to it. Call "
            "model.set_attn_implementation('sdpa') first."
        )
    _originals.update(before)
    try:
        for config in configs.values():
            # As set_attn_implementation() does, but for models defined in a notebook as well. A
            # model that takes no notice of it fails at the end of its first pass.
            config._attn_implementation = NAME
        yield
    finally:
        for key, config in configs.items():
            config._attn_implementation = before[key]
            del _originals[key]


def _original(config: PretrainedConfig | None) -> str:
    """The attention a lent model had."""
    name = _originals.get(id(config))
    if name is None:
        raise UnsupportedModelError(
            f'The attention "{NAME}" was called for a model that no Engine and no skipkv.attach '
            "uses: the model or its config was copied while one did. Call "
            "model.set_attn_implementation('sdpa') on the copy."
        )
    return name


def _stock_attention(module: torch.nn.Module) -> Callable[..., Any]:
    """The attention function that a module would call without us."""
    name = _original(cast(PretrainedConfig, module.config))
    if name == "eager":  # every file of models has its own
        own: Callable[..., Any] = vars(sys.modules[type(module).__module__])[
            "eager_attention_forward"
        ]
        return own
    registered: Callable[..., Any] = AttentionInterface()[name]
    return registered


@contextmanager
def evaluating(model: PreTrainedModel) -> Iterator[None]:
    """While it lasts, the model and its parts are in evaluation mode; then as before."""
    training = [part for part in model.modules() if part.training]
    for part in training:
        part.training = False
    try:
        yield
    finally:
        for part in training:
            part.training = True


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
    """The module whose forward passes decode: the model itself, or what a wrapper holds.

    Wrappers such as a PEFT adapter, `torch.compile(model)` or one that adds a value head hand
    `generate()` to a model inside; that one is returned.

    Args:
        model: what a user gave.
        user: the name of the call, for errors.

    Raises:
        InputError: not a module, one without a language model's head, one compiled in place, or
            a wrapper around none or several models.
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
        raise InputError(
            f"{user} needs a transformers causal language model, got {_kind(wrapped)}.{hint}"
        )
    if not isinstance(model, PreTrainedModel):
        active = getattr(model, "active_peft_config", None)
        if getattr(active, "is_prompt_learning", False):
            raise UnsupportedModelError(
                f"{type(active).__name__} puts virtual tokens before every prompt, which are not "
                "in input_ids. Adapters that change weights (LoRA and its kin) are supported."
            )
        model = _generator_in(model, user)
    if not model.can_generate():
        raise InputError(
            f"{user} needs a causal language model, got {type(model).__name__}, which has no "
            "language model's head. Load it with AutoModelForCausalLM."
        )
    if getattr(model, "_compiled_call_impl", None) is not None:
        raise InputError(
            f"The model was compiled in place (model.compile()), which compiles skipkv's hooks "
            f"too. Give {user} the model before compiling it."
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
            f"{user} got {type(wrapper).__name__}, a module that holds {len(found)} transformers "
            "models that generate. Give the one that decodes."
        )
    return found[0]


def _kind(value: object) -> str:
    return repr(value) if isinstance(value, str) else f"a {type(value).__name__}"


def _versions(installed: str = transformers.__version__) -> str:
    return (
        f"This is transformers {installed} with torch {torch.__version__}; skipkv "
        f"was tested with transformers {OLDEST} to {NEWEST}."
    )


_warned: set[str] = set()


def check_version(installed: str = transformers.__version__) -> None:
    """Warn, once, where transformers is newer than what the tests run with.

    Args:
        installed: its version.
    """
    if installed in _warned or _release(installed) <= _release(NEWEST):
        return
    _warned.add(installed)
    warnings.warn(
        f"{_versions(installed)} Every pass is checked, so that a difference raises an error and "
        "never decodes without the policy.",
        SkipKVWarning,
        stacklevel=3,
    )


def _release(version: str) -> tuple[int, ...]:
    """The numbers of a version, without what follows them.

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
