"""The floor: the same model at the same cache length, in the simplest possible loop.

The cost of a policy is its time beyond the floor's. The floor has no events, stores no positions,
and its batch never changes. It writes keys and values to a slot known beforehand, and attention
reads all slots up to that one, grouped and without a mask.

On a GPU that loop waits for its host. There the floor is `run_recorded_floor`: its layers are
compiled and its step is a recorded graph, as under a policy. A graph always does the same, so each
step reads all slots, which is what a recorded step under a policy has room for.
"""

import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import cache as cached
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel
from transformers.cache_utils import Cache, CacheLayerMixin

from skipkv.benchmark.recorder import Recorder
from skipkv.benchmark.schedule import widths
from skipkv.errors import SkipKVWarning
from skipkv.runtime.graph import Record
from skipkv.runtime.seam.compiled import CompiledLayers
from skipkv.runtime.seam.names import cache_name

NAME = "skipkv_floor"
# Steps done one by one before the recording, in which libraries set themselves up.
_WARM = 2
# Steps between two readings of the tokens, and so in a lap. It is the engine's number, because the
# mean of a few steps has another distribution than single steps.
_BURST = 16


class FloorLayer(CacheLayerMixin):
    """Keys and values of one layer: writes to a given slot and returns views."""

    is_sliding = False

    def __init__(self, keys: Float[Tensor, "B H L D"], values: Float[Tensor, "B H L D"]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._keys, self._values = keys, values
        self.width = 0
        self.is_initialized = True

    def update(
        self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        """Write the newest entry to the last slot of `width`; return all up to it."""
        width = self.width
        self._keys[:, :, width - 1 : width] = key_states
        self._values[:, :, width - 1 : width] = value_states
        return self._keys[:, :, :width], self._values[:, :, :width]

    def lazy_initialization(self, *args: Any, **kwargs: Any) -> None:
        """Nothing to do."""

    def get_seq_length(self) -> int:
        """The number of entries held now."""
        return self.width

    def get_mask_sizes(self, query_length: Any) -> tuple[int, int]:
        """The sizes; used by the stock mask functions only."""
        return self.width, 0

    def get_max_length(self) -> int:
        """Without a limit: -1."""
        return -1

    get_max_cache_shape = get_max_length


class FloorCache(Cache):
    """Keys and values of all layers, `[layers, B, H, capacity, D]`, allocated once."""

    layer_kind = FloorLayer

    def __init__(self, past: Sequence[tuple[Tensor, Tensor]], *, capacity: int, held: int) -> None:
        batch, heads, _, dim = past[0][0].shape
        shape = (len(past), batch, heads, capacity, dim)
        self.keys, self.values = past[0][0].new_zeros(shape), past[0][1].new_zeros(shape)
        for layer, (keys, values) in enumerate(past):
            self.keys[layer, :, :, :held] = keys[:, :, -held:]
            self.values[layer, :, :, :held] = values[:, :, -held:]
        kind = self.layer_kind
        self._own = [kind(k, v) for k, v in zip(self.keys, self.values, strict=True)]
        super().__init__(layers=list(self._own))

    def attend_to(self, width: int) -> None:
        """Let the next step write to the last of `width` slots and read them all."""
        for layer in self._own:
            layer.width = width


def attend(
    module: torch.nn.Module,
    query: Float[Tensor, "B Q 1 D"],
    key: Float[Tensor, "B H L D"],
    value: Float[Tensor, "B H L D"],
    attention_mask: Tensor | None,
    scaling: float | None = None,
    **kwargs: Any,
) -> tuple[Float[Tensor, "B 1 Q D"], None]:
    """Grouped-query attention of one token: query heads of a KV head are its queries."""
    batch, heads, _, dim = key.shape
    grouped = query.view(batch, heads, -1, dim)  # [B Q 1 D] -> [B H G D]
    output = torch.nn.functional.scaled_dot_product_attention(grouped, key, value, scale=scaling)
    return output.reshape(batch, 1, -1, dim), None


def _no_mask(*args: Any, **kwargs: Any) -> None:
    return None


@contextmanager
def floor_attention(
    model: PreTrainedModel, attention: Callable[..., Any] | None = None
) -> Iterator[None]:
    """Within this context the model attends without a mask."""
    AttentionInterface.register(NAME, attention or attend)
    AttentionMaskInterface.register(NAME, _no_mask)
    before = model.config._attn_implementation
    try:
        model.set_attn_implementation(NAME)
        yield
    finally:
        model.set_attn_implementation(before)


@torch.inference_mode()
def run_floor(
    model: PreTrainedModel,
    prompts: Int[Tensor, "B P"],
    *,
    new_tokens: int,
    budget: int,
    interval: int,
    recorder: Recorder,
) -> tuple[Int[Tensor, "B N"], FloorCache]:
    """Decode greedily; returns the tokens and the cache.

    Args:
        model: any causal language model of the families the engine decodes.
        prompts: prompts of one length.
        new_tokens: tokens to decode.
        budget: entries to which the cache shrinks, as in `schedule.widths`. It does not matter
            which entries are overwritten: the cost is the same.
        interval: steps between two shrinks.
        recorder: records time and memory.
    """
    length, name = prompts.shape[1], cache_name(model)
    schedule = list(widths(length, new_tokens - 1, budget=budget, interval=interval))
    held = min(length, budget)
    last, cache = _prefilled(model, prompts, FloorCache, capacity=max([held, *schedule]), held=held)
    read: list[list[int]] = last[:, None].tolist()
    recorder.lap("prefill")
    unread: list[Tensor] = []
    position = torch.full_like(last[:, None], length)
    with floor_attention(model):
        for width in schedule:
            cache.attend_to(width)
            output = model(
                input_ids=last[:, None],
                position_ids=position,
                use_cache=True,
                logits_to_keep=1,
                **{name: cache},
            )
            last = output.logits[:, -1].argmax(dim=-1)
            position += 1
            unread.append(last)
            if len(unread) == _BURST:
                _read(unread, read, recorder)
        if unread:
            _read(unread, read, recorder)
    return torch.tensor(read), cache


def _prefilled(
    model: PreTrainedModel,
    prompts: Int[Tensor, "B P"],
    kind: type[FloorCache],
    *,
    capacity: int,
    held: int,
) -> tuple[Int[Tensor, "B"], FloorCache]:
    """The first token after each prompt, and a cache of the last `held` entries."""
    output = model(input_ids=prompts, use_cache=True, logits_to_keep=1)
    last = output.logits[:, -1].argmax(dim=-1)
    past = [(layer.keys, layer.values) for layer in getattr(output, cache_name(model)).layers]
    return last, kind(past, capacity=capacity, held=held)


class _FixedLayer(FloorLayer):
    """Writes to the slot that a tensor holds, and returns all slots."""

    slot: Int[Tensor, "1"]

    def update(
        self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        """Write the newest entry to the slot; return all."""
        self._keys.index_copy_(2, self.slot, key_states)
        self._values.index_copy_(2, self.slot, value_states)
        return self._keys, self._values


class _FixedCache(FloorCache):
    """A `FloorCache` whose steps are all the same operations on the same tensors."""

    layer_kind = _FixedLayer

    def start_at(self, slot: int) -> Int[Tensor, "1"]:
        """A tensor with the slot that the next step writes to."""
        at = torch.full((1,), slot, dtype=torch.long, device=self.keys.device)
        for layer in self._own:
            layer.slot = at  # type: ignore[attr-defined]
            layer.width = self.keys.shape[3]
        return at


@cached
def _outside_the_compiler() -> tuple[type[_FixedCache], Callable[..., Any]]:
    """The cache and the attention, not to be compiled: as under a policy."""

    class Cache(_FixedCache):
        update = torch.compiler.disable(_FixedCache.update)

    return Cache, torch.compiler.disable(attend)


@torch.inference_mode()
def run_recorded_floor(
    model: PreTrainedModel,
    prompts: Int[Tensor, "B P"],
    *,
    new_tokens: int,
    budget: int,
    interval: int,
    recorder: Recorder,
    record: Record | None,
    layers: CompiledLayers | None,
) -> tuple[Int[Tensor, "B N"], FloorCache]:
    """Decode greedily with steps that are all the same; returns the tokens and the cache.

    The slots after the budget are used in turn. Before they are used they hold copies of entries,
    because every step reads them all.

    Args:
        model: as for `run_floor`.
        prompts: as for `run_floor`; at least `interval` tokens long.
        new_tokens: tokens to decode.
        budget: entries beside those of an interval.
        interval: slots that are used in turn.
        recorder: records time and memory.
        record: how steps are recorded; None launches them one by one.
        layers: the model's layers, compiled; None leaves them as they are.
    """
    length = prompts.shape[1]
    held = min(length, budget)
    kind, attention = (_FixedCache, attend) if layers is None else _outside_the_compiler()
    last, cache = _prefilled(model, prompts, kind, capacity=held + interval, held=held)
    assert isinstance(cache, _FixedCache)
    for tensor in (cache.keys, cache.values):
        tensor[..., held:, :] = tensor[..., :interval, :]
    slot, position = cache.start_at(held), torch.full_like(last[:, None], length)
    read: list[list[int]] = last[:, None].tolist()
    recorder.lap("prefill")
    arguments = {cache_name(model): cache, "position_ids": position, "use_cache": True}

    def logits() -> Float[Tensor, "B V"]:
        output = model(input_ids=last[:, None], logits_to_keep=1, **arguments)
        return output.logits[:, -1]  # type: ignore[no-any-return]

    def step() -> None:
        last.copy_(logits().argmax(dim=-1))
        position.add_(1)
        slot.sub_(held - 1).remainder_(interval).add_(held)

    unread: list[Tensor] = []
    replay: Callable[[], object] | None = None
    with floor_attention(model, attention), ExitStack() as compiled:
        if layers is not None and layers.attempt(logits) is not None:
            compiled.enter_context(layers.exchanged())
        for number in range(new_tokens - 1):
            if number == _WARM and record is not None:
                try:
                    replay = record(step)
                except Exception as cause:
                    warnings.warn(
                        f"The floor is not recorded: {type(cause).__name__}: {cause}",
                        SkipKVWarning,
                        stacklevel=2,
                    )
            step() if replay is None else replay()
            unread.append(last.clone())
            if len(unread) == _BURST:
                _read(unread, read, recorder)
        if unread:
            _read(unread, read, recorder)
    return torch.tensor(read), cache


def _read(unread: list[Tensor], read: list[list[int]], recorder: Recorder) -> None:
    """Copy the tokens to the host, and record a lap."""
    for row, tokens in zip(read, torch.stack(unread, dim=1).tolist(), strict=True):
        row += tokens
    recorder.lap("step", steps=len(unread))
    unread.clear()
