"""The entries of layers with one capacity, of every sequence and head, in one allocation."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import attrs
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from skipkv._calls import statistics_of
from skipkv._types import Memory, Needs
from skipkv.runtime.store.softmax import PLAIN, numbers

COUNTED_TOGETHER = 16
"""Decode steps, at most, whose attention is counted together; each keeps a query until then."""
# Elements of attention weights computed at a time: what the weights of a step take in a large
# cache.
_WEIGHTS = 2**22


@attrs.frozen(kw_only=True)
class CacheShape:
    """The fixed axes of a cache.

    Args:
        layers: layers whose entries are stored.
        heads: KV heads.
        groups: query heads per KV head.
        dim: head size.
        numbers: which layers of the model these are, from 0; by default the first ones.
        depth: layers of the model; by default no more than are stored.
        windowed: layers with a sliding window, which are stored beside the others.
        window: tokens that these attend to.
        states: whether there are layers with states in the place of entries.
    """

    layers: int
    heads: int
    groups: int
    dim: int
    numbers: tuple[int, ...] = attrs.field(
        default=attrs.Factory(lambda self: tuple(range(self.layers)), takes_self=True)
    )
    depth: int = attrs.field(default=attrs.Factory(lambda self: self.layers, takes_self=True))
    windowed: int = 0
    window: int = 0
    states: bool = False

    def of(self, layers: Sequence[int]) -> "CacheShape":
        """The shape of some of the stored layers, given by their indices."""
        numbers = tuple(self.numbers[layer] for layer in layers)
        return attrs.evolve(self, layers=len(numbers), numbers=numbers, windowed=0, states=False)


@attrs.frozen(kw_only=True, eq=False)
class SavedRows:
    """A copy of what some layers hold of one sequence.

    Args:
        tensors: its rows of their tensors.
        width: the most entries of a head.
        least_dropped: entries that every head has dropped.
        even: whether all heads hold equally many entries.
    """

    tensors: Sequence[Tensor]
    width: int
    least_dropped: int
    even: bool


def span(lanes: Sequence[int]) -> slice | list[int]:
    """An index of these lanes: a slice, which copies nothing, if they are contiguous."""
    if list(lanes) == list(range(lanes[0], lanes[-1] + 1)):
        return slice(lanes[0], lanes[-1] + 1)
    return list(lanes)


def on_device(numbers: Sequence[int], device: torch.device) -> Int[Tensor, "n"]:
    """`numbers` as a tensor on the device; pinned memory saves the host a wait for the GPU."""
    return torch.tensor(numbers, pin_memory=device.type == "cuda").to(device, non_blocking=True)


def put(items: list[Any], targets: Sequence[int], sources: Sequence[int]) -> None:
    """Copy the items at `sources` to the places `targets`; all are read before any is written."""
    for target, item in zip(targets, [items[source] for source in sources], strict=True):
        items[target] = item


class LayerGroup:
    """Layers of one capacity: keys and values `[layers, S, H, capacity, D]`, and their positions.

    A sequence has a lane, an index of axis `S`. Each lane has its own length: padding is never
    stored. Each head fills its first slots in the order of positions: the entries that the last
    compaction kept, then every token since. For example, a head that has seen 12 tokens and dropped
    5:

        slot             0   1   2   3 | 4   5   6 | 7   8
        dropped before   0   2   5   5 | 5   5   5 | 5   5
        position         0   3   7   8 | 9  10  11 |
                         kept          | since     | free

    An entry's position is its slot plus the number of entries that were dropped before it. A head's
    length is the number of tokens seen less the number of all its dropped entries. So a decode step
    only writes keys and values: `dropped` and `dropped_before` change at compactions only, and the
    host counts the tokens seen.

    The group is a part of a `SlotStore`, whose methods keep all groups at the same tokens.

    Args:
        shape: heads and head size, and the numbers of these layers.
        layers: their indices among all layers that attend to the whole past.
        tokens_seen: tokens that each lane has seen: the store's own list, which the store changes.
        capacity: slots of each head. Only `reserve` adds to them.
        needs: what to record beside keys and values.
        dtype: dtype of keys and values.
        device: device of all tensors.
    """

    def __init__(
        self,
        shape: CacheShape,
        layers: Sequence[int],
        tokens_seen: list[int],
        *,
        capacity: int,
        needs: Needs,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
    ) -> None:
        self.shape = shape
        self.layers = tuple(layers)
        self.tokens_seen = tokens_seen
        self.needs = needs
        sequences = len(tokens_seen)
        heads = shape.layers, sequences, shape.heads

        def zeros(*axes: int, dtype: torch.dtype = dtype) -> Tensor:
            return torch.zeros(*heads, *axes, dtype=dtype, device=device)

        self.keys = zeros(capacity, shape.dim)
        self.values = zeros(capacity, shape.dim)
        self.dropped: Int[Tensor, "layers S H"] = zeros(dtype=torch.long)
        self.dropped_before: Int[Tensor, "layers S H capacity"] = zeros(capacity, dtype=torch.int32)
        self.records = {
            record: zeros(capacity, dtype=torch.float32).fill_(record.start)
            for record in needs.recorded
        }
        """Numbers beside each entry; a free slot holds what an entry starts with."""
        self.ring = max(needs.queries, COUNTED_TOGETHER if needs.weights else 0)
        """Queries that each head keeps: the query of position p lies at p % ring."""
        self.queries = zeros(shape.groups, self.ring, shape.dim) if self.ring else None
        self.bias: Float[Tensor, "layers S H capacity"] = zeros(capacity)
        """Memory for the mask of decode steps, which `SlotSteps` writes."""
        self.softmax = [PLAIN] * shape.layers
        """How each layer's logits become weights, as the layer's last pass told."""
        # What the host knows of each lane without waiting for the device:
        self.least_dropped = [0] * sequences  # the minimum over heads
        self.even = [True] * sequences  # whether all heads hold equally many entries

    @property
    def capacity(self) -> int:
        """Slots of each head."""
        return self.keys.shape[3]

    def receive(
        self,
        layer: int,
        lanes: slice,
        weights: Float[Tensor, "B H G T L"],
        positions: Int[Tensor, "B T"],
        free: Bool[Tensor, "B #H L"] | None,
    ) -> None:
        """Bring statistics up to date with the attention of some tokens.

        Args:
            layer: the layer.
            lanes: the lanes.
            weights: attention weights of the first `L` slots; 0 in the rows of padding.
            positions: of the tokens; -1 is padding.
            free: slots without an entry; None where there are none.

        Raises:
            PartError: a statistic broke its protocol.
        """
        slots = weights.shape[-1]
        held = {record: values[layer, lanes, :, :slots] for record, values in self.records.items()}
        for record, found in statistics_of(held, weights, positions).items():
            held[record].copy_(found if free is None else found.masked_fill(free, record.start))

    def count_attention(self, lanes: slice, tokens: int) -> None:
        """Bring statistics up to date with the last decode steps of these lanes.

        Since these steps entries have been added and none dropped, so that each query sees again
        what it saw.

        Args:
            lanes: the lanes.
            tokens: of each lane, whose attention is not counted yet; their queries are kept.

        Raises:
            PartError: a statistic broke its protocol.
        """
        assert self.queries is not None
        count, heads, dim = lanes.stop - lanes.start, self.shape.heads, self.shape.dim
        width = max(self.widths[lanes])
        ages = torch.arange(-tokens, 0, device=self.keys.device)
        positions = self.seen[lanes, None] + ages  # [B t]
        places = (positions % self.ring)[:, None, None, :, None]
        places = places.expand(-1, heads, self.shape.groups, -1, dim)
        slots = torch.arange(width, device=self.keys.device)
        step = max(1, _WEIGHTS // (count * heads * self.shape.groups * width))
        level = all(self.even[lanes])  # then all heads and layers share a mask
        full = level and min(self.widths[lanes]) == width
        held = self.lengths[:, lanes, : 1 if level else None, None]  # [layers B #H 1]
        for layer in range(self.shape.layers):
            if layer == 0 or not level:
                seen = slots <= (held[layer] + ages)[..., None]
                mask = numbers(seen).unsqueeze(2)  # [B #H 1 t L]
                free = None if full else slots >= held[layer]
            keys = self.keys[layer, lanes, :, :width]
            queries = self.queries[layer, lanes].gather(3, places)  # [B H G t D]
            for start in range(0, tokens, step):
                some = slice(start, start + step)
                weights = self.softmax[layer].seen(
                    queries[:, :, :, some], keys, mask[:, :, :, some], 1 / math.sqrt(dim)
                )
                self.receive(layer, lanes, weights, positions[:, some], free)

    @property
    def bytes(self) -> int:
        """Bytes allocated now for keys and values, as their storages report them."""
        return self.keys.untyped_storage().nbytes() + self.values.untyped_storage().nbytes()

    @property
    def widths(self) -> list[int]:
        """The most entries that a head of each lane holds."""
        return [s - d for s, d in zip(self.tokens_seen, self.least_dropped, strict=True)]

    @property
    def seen(self) -> Int[Tensor, "S"]:
        """Tokens that each lane has seen, on the device."""
        return on_device(self.tokens_seen, self.keys.device)

    @property
    def lengths(self) -> Int[Tensor, "layers S H"]:
        """Entries that each head holds."""
        return self.seen[:, None] - self.dropped

    @property
    def starts(self) -> Int[Tensor, "layers S H"]:
        """Each head's first slot, as an index into all slots of the store."""
        numbers = torch.arange(self.dropped.numel(), device=self.keys.device)
        return numbers.view(self.dropped.shape) * self.capacity

    def positions(self, layers: slice, lanes: Sequence[int], width: int) -> Int[Tensor, "l n H L"]:
        """The position of the entry in each of the first `width` slots; -1 in a free slot."""
        at = span(lanes)
        slots = torch.arange(width, device=self.keys.device)
        positions = slots + self.dropped_before[layers, at, :, :width]
        return positions.masked_fill_(positions >= self.seen[at][:, None, None], -1)

    def recent_queries(
        self, layers: slice, lanes: Sequence[int]
    ) -> Float[Tensor, "l n H G W D"] | None:
        """The last queries of each of these rows, as many as parts need, oldest first."""
        window = self.needs.queries
        if self.queries is None or not window:
            return None
        ages = torch.arange(-window, 0, device=self.keys.device)
        places = (self.seen[span(lanes)][:, None] + ages) % self.ring  # [n W]
        rows = self.queries[layers, span(lanes)]
        index = places[None, :, None, None, :, None].expand(*rows.shape[:4], -1, rows.shape[5])
        return rows.gather(4, index)

    def reserve(self, capacity: int, *, limit: int | None = None) -> None:
        """Make room for `capacity` entries.

        Args:
            capacity: entries the store must have room for, per sequence, layer and head.
            limit: the most entries there can ever be.
        """
        doubling = self.keys.device.type == "cpu"
        wanted = grown_capacity(self.capacity, capacity, limit=limit, doubling=doubling)

        def grown(tensor: Tensor, fill: Tensor | float = 0) -> Tensor:
            shape = list(tensor.shape)
            held, shape[3] = shape[3], wanted
            larger = tensor.new_empty(shape)
            larger[:, :, :, :held] = tensor
            larger[:, :, :, held:] = fill
            return larger

        self.keys = grown(self.keys)  # one after the other: the old keys make room for new values
        self.values = grown(self.values)
        self.dropped_before = grown(self.dropped_before, self.dropped[..., None])
        self.bias = grown(self.bias)
        for record, values in self.records.items():
            self.records[record] = grown(values, record.start)

    def compact(
        self,
        layers: slice,
        lanes: Sequence[int],
        keep: Bool[Tensor, "R H L"],
        *,
        most: int | None = None,
    ) -> tuple[Int[Tensor, "R H"], Int[Tensor, "R H K"]]:
        """Drop the entries that are not kept, and move the others together in order.

        Entries are dropped here only. A call covers some layers of some lanes. Call the store's
        `compacted` for the lanes after the last layer.

        Args:
            layers: the layers whose rows `keep` holds.
            lanes: the lanes; row r is lane r % n of layer r // n of these.
            keep: which of the first `L` slots stay.
            most: entries that a head may keep, `K` then; it keeps no more than the first of them.
                None looks how many there are, which waits for the device.

        Returns:
            How many entries each row and head kept, and their positions, filled up with -1.
        """
        rows, heads, width = keep.shape
        at, axes = span(lanes), (rows // len(lanes), len(lanes), heads)
        kept = keep.sum(dim=-1)  # [R H]
        if most is None:
            most = int(kept.amax()) if kept.numel() else 0
        else:
            kept = kept.clamp_max(most)
        order = _in_order(keep, most).view(*axes, most)  # [l n H K]
        slots = torch.arange(most, dtype=torch.int32, device=keep.device)
        free = slots >= kept.view(*axes, 1)

        moving = (self.starts[layers, at, :, None] + order).flatten()
        for tensor in (self.keys, self.values):
            moved = tensor.view(-1, self.shape.dim).index_select(0, moving)
            tensor[layers, at, :, :most] = moved.view(*axes, most, self.shape.dim)
        for record, values in self.records.items():
            moved = values[layers, at, :, :width].gather(3, order)
            values[layers, at, :, :width] = record.start
            values[layers, at, :, :most] = moved.masked_fill(free, record.start)
        positions = self.dropped_before[layers, at, :, :width].gather(3, order).add_(order)
        dropped = self.seen[at][:, None, None] - kept.view(*axes, 1)
        self.dropped[layers, at] = dropped[..., 0]
        dropped = dropped.int()
        self.dropped_before[layers, at] = dropped
        self.dropped_before[layers, at, :, :most] = torch.where(free, dropped, positions - slots)
        return kept, positions.masked_fill_(free, -1).reshape(rows, heads, most)

    def remember(
        self,
        layers: slice,
        lanes: Sequence[int],
        remembered: Mapping[Memory, Float[Tensor, "R H L"]],
    ) -> None:
        """Write what a scorer remembers of the entries of these rows; their places are as before.

        Args:
            layers: the layers.
            lanes: the lanes; row r is lane r % n of layer r // n of these.
            remembered: values of the first `L` slots.
        """
        for memory, found in remembered.items():
            rows = found.unflatten(0, (-1, len(lanes)))
            self.records[memory][layers, span(lanes), :, : found.shape[-1]] = rows

    def count_dropped(self, lanes: Sequence[int]) -> None:
        """Update what the host knows after a compaction; waits for the device."""
        dropped = self.dropped[:, span(lanes)]
        extremes = torch.stack([dropped.amin(dim=(0, 2)), dropped.amax(dim=(0, 2))], dim=1)
        for lane, (least, most) in zip(lanes, extremes.tolist(), strict=True):
            self.least_dropped[lane], self.even[lane] = least, least == most

    def put(self, targets: Sequence[int], sources: Sequence[int]) -> None:
        """Copy what the host knows of the lanes `sources` to the lanes `targets`."""
        for facts in (self.least_dropped, self.even):
            put(facts, targets, sources)

    def clear(self, lane: int) -> None:
        """Forget a sequence whose tensors the store has erased."""
        for record, values in self.records.items():
            values[:, lane] = record.start
        self.least_dropped[lane], self.even[lane] = 0, True

    def save(self, lane: int) -> SavedRows:
        """A copy of a sequence, for `load`."""
        width = self.widths[lane]
        return SavedRows(
            tensors=[row.clone() for row in self._row(lane, width)],
            width=width,
            least_dropped=self.least_dropped[lane],
            even=self.even[lane],
        )

    def load(self, lane: int, saved: SavedRows) -> None:
        """Write a saved sequence into a lane that is clear; there must be room for its entries."""
        for row, copy in zip(self._row(lane, saved.width), saved.tensors, strict=True):
            row.copy_(copy)
        # before an entry that is yet to come lie all that its head has dropped
        self.dropped_before[:, lane, :, saved.width :] = self.dropped[:, lane, :, None].int()
        self.least_dropped[lane], self.even[lane] = saved.least_dropped, saved.even

    def _row(self, lane: int, width: int) -> list[Tensor]:
        """A lane's rows of all tensors; of those with slots the slots in use.

        Groups of other stores may have more slots than these.
        """
        slotted = [self.keys, self.values, self.dropped_before, *self.records.values()]
        whole = [self.dropped, *([] if self.queries is None else [self.queries])]
        return [
            *(tensor[:, lane, :, :width] for tensor in slotted),
            *(tensor[:, lane] for tensor in whole),
        ]

    @property
    def tensors(self) -> list[Tensor]:
        """All tensors with data of sequences; their axis 1 is the lane."""
        queries = [] if self.queries is None else [self.queries]
        kept = [self.keys, self.values, self.dropped, self.dropped_before]
        return [*kept, *self.records.values(), *queries]


def grown_capacity(now: int, needed: int, *, limit: int | None, doubling: bool) -> int:
    """The slots that a store gets when it grows.

    Args:
        now: slots there are.
        needed: slots there must be.
        limit: the most there can ever be needed. The store does not grow further, and grows to the
            limit at once where it would almost reach it.
        doubling: a store that grows at least doubles. Otherwise it grows by an eighth and by 1024
            slots at least: an accelerator copies a cache in the time of a step, and has less memory
            than time to spare.

    Example:
        >>> grown_capacity(8192, 8193, limit=None, doubling=True)
        16384
        >>> grown_capacity(8192, 8193, limit=None, doubling=False)
        9216
        >>> grown_capacity(8192, 8193, limit=8500, doubling=False)
        8500
    """
    wanted = max(needed, 2 * now if doubling else now + max(1024, now // 8))
    nearly = 1.25 if doubling else 1.0
    if limit is not None and limit <= nearly * wanted:
        return max(needed, limit)
    return wanted


def _in_order(keep: Bool[Tensor, "R H L"], most: int) -> Int[Tensor, "R H K"]:
    """The first `most` slots that are kept, in order, filled up with 0."""
    slots = torch.arange(keep.shape[-1], device=keep.device).expand(keep.shape)
    # dropped slots all go to the last place, which is cut off, and so do those beyond `most`
    places = keep.cumsum(dim=-1).sub_(1).masked_fill_(~keep, most).clamp_max_(most)
    order = places.new_zeros(*keep.shape[:2], most + 1).scatter_(-1, places, slots)
    return order[..., :most]
