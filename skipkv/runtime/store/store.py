"""The storage of a KV cache: layers in groups, and what every lane has seen."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TypeVar

import attrs
import torch
from jaxtyping import Int
from torch import Tensor

from skipkv._calls import without_frames
from skipkv._types import Needs
from skipkv.errors import PartError
from skipkv.runtime.store.slots import CacheShape, LayerGroup, SavedRows, on_device, put
from skipkv.runtime.store.states import StateKey, StateStore
from skipkv.runtime.store.windows import WindowStore

_Part = TypeVar("_Part")


@attrs.frozen(kw_only=True, eq=False)
class SavedLane:
    """A copy of what a store holds of one sequence.

    Args:
        groups: what each group of layers holds of it.
        windows: its rows of the layers with a window.
        states: its states: see `StateStore.save_lane`.
        tokens_seen: tokens that it has seen.
        fault: the error of a statistic that broke on it.
    """

    groups: Sequence[SavedRows]
    windows: Sequence[Tensor]
    states: Mapping[StateKey, Tensor]
    tokens_seen: int
    fault: PartError | None = None


class SlotStore:
    """All that is cached of the running sequences.

    Running sequences have the lanes `0 .. n`, so that a step works on views and copies nothing.

    Layers that attend to the whole past lie in `groups`, each with one capacity: a single one,
    unless the budget gives layers different shares. What layers with a sliding window or with
    states hold is in `windows` and `states`, by the same lanes.

    Args:
        shape: layers, heads and head size.
        sequences: lanes.
        capacity: slots of each head of the layers that attend to the whole past. Where layers
            differ, those of each group; a group is named by the indices of its layers among these.
        needs: what to record beside keys and values.
        longest: tokens that a sequence can come to; None where it is unknown.
        dtype: dtype of keys and values.
        device: device of all tensors.
    """

    def __init__(
        self,
        shape: CacheShape,
        *,
        sequences: int,
        capacity: int | Mapping[tuple[int, ...], int],
        needs: Needs,
        longest: int | None = None,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
    ) -> None:
        self.shape = shape
        self.sequences = sequences
        self.needs = needs
        self.tokens_seen = [0] * sequences
        """Tokens that each lane has seen."""
        capacities = (
            {tuple(range(shape.layers)): capacity} if isinstance(capacity, int) else capacity
        )
        self.groups = [
            LayerGroup(
                shape.of(layers),
                layers,
                self.tokens_seen,
                capacity=slots,
                needs=needs,
                dtype=dtype,
                device=device,
            )
            for layers, slots in capacities.items()
        ]
        self.windows: WindowStore | None = None
        """The layers with a sliding window; None where there are none."""
        if shape.windowed:
            self.windows = WindowStore(
                layers=shape.windowed,
                heads=shape.heads,
                dim=shape.dim,
                window=shape.window,
                sequences=sequences,
                longest=longest,
                dtype=dtype,
                device=device,
            )
        self.states = StateStore(sequences) if shape.states else None
        """The layers with states in the place of entries; None where there are none."""
        self.device = torch.device(device)
        self.dtype = dtype
        self.peak_bytes = self.kv_bytes
        self.changes = 0
        """Counts changes other than decode steps. An object with views of the store compares it."""
        self.faults: list[PartError | None] = [None] * sequences
        """Of each lane the error of a statistic that broke, whose numbers mean nothing then."""
        self._counts = needs.weights
        self._uncounted = slice(0, 0), 0  # lanes, and their last steps whose attention is to count

    @property
    def _parts(self) -> list[LayerGroup | WindowStore | StateStore]:
        others = (self.windows, self.states)
        return [*self.groups, *(other for other in others if other is not None)]

    def by_layer(self, parts: Sequence[_Part]) -> list[tuple[_Part, int]]:
        """Of each layer what there is for its group, and its index in the group.

        Args:
            parts: something for each group.
        """
        found = {
            layer: (part, at)
            for part, group in zip(parts, self.groups, strict=True)
            for at, layer in enumerate(group.layers)
        }
        return [found[layer] for layer in range(self.shape.layers)]

    @property
    def kv_bytes(self) -> int:
        """Bytes allocated now for keys, values and states, as their storages report them."""
        return sum(part.bytes for part in self._parts)

    @property
    def widths(self) -> list[int]:
        """The most entries that a head of each lane holds, in any layer."""
        return [max(widths) for widths in zip(*(g.widths for g in self.groups), strict=True)]

    @property
    def seen(self) -> Int[Tensor, "S"]:
        """Tokens that each lane has seen, on the device."""
        return on_device(self.tokens_seen, self.device)

    @property
    def dropped(self) -> Int[Tensor, "S"]:
        """Entries that each lane has dropped, summed over layers and heads."""
        return torch.stack([group.dropped.sum(dim=(0, 2)) for group in self.groups]).sum(dim=0)

    def positions(self, lane: int) -> Int[Tensor, "layers H K"]:
        """The positions that each layer and head of a lane holds, filled up with -1."""
        width = self.widths[lane]
        shape = self.shape.layers, self.shape.heads, width
        found = torch.full(shape, -1, dtype=torch.long, device=self.device)
        for group in self.groups:
            held = group.widths[lane]
            everything = slice(0, group.shape.layers)
            found[list(group.layers), :, :held] = group.positions(everything, [lane], held)[:, 0]
        return found

    def lacks_room(self, rooms: Sequence[int]) -> bool:
        """Whether some group has fewer slots than these, one number for each group."""
        return any(room > group.capacity for room, group in zip(rooms, self.groups, strict=True))

    def reserve(self, rooms: Sequence[int], *, limit: int | None = None) -> None:
        """Make room for so many entries of each head.

        Args:
            rooms: entries, for each group.
            limit: the most entries there can ever be.
        """
        for room, group in zip(rooms, self.groups, strict=True):
            if room > group.capacity:
                group.reserve(room, limit=limit)
                self.changes += 1
                self.peak_bytes = max(self.peak_bytes, self.kv_bytes)

    def append(self, first: int, counts: Sequence[int]) -> None:
        """Count new tokens of the lanes from `first` on; the caller fills their slots."""
        self.settle()
        self.changes += 1
        for lane, count in enumerate(counts, start=first):
            self.tokens_seen[lane] += count

    def before_step(self, first: int, last: int) -> None:
        """Make sure that the attention of a decode step of these lanes can be counted later."""
        lanes, steps = self._uncounted
        if steps and (steps == self.groups[0].ring or lanes != slice(first, last)):
            self.settle()

    def step(self, first: int, last: int) -> None:
        """Count the token of a decode step in each of the lanes `first .. last`."""
        for lane in range(first, last):
            self.tokens_seen[lane] += 1
        if self._counts:
            self._uncounted = slice(first, last), self._uncounted[1] + 1

    def settle(self) -> None:
        """Bring statistics of attention up to date.

        Decode steps leave their queries in a ring, and attention is counted some steps together:
        fused kernels, which give no weights, serve the steps. It must be counted before entries,
        lanes or statistics are read or moved.
        """
        (lanes, steps), self._uncounted = self._uncounted, (slice(0, 0), 0)
        if steps:
            with self.counting(lanes):
                for group in self.groups:
                    group.count_attention(lanes, steps)

    @contextmanager
    def counting(self, lanes: slice) -> Iterator[None]:
        """In this context statistics of these lanes are brought up to date.

        If one breaks, the lanes have its error. No gradient passes, as none does in the cache.
        """
        try:
            with torch.no_grad():
                yield
        except PartError as error:
            fault = without_frames(error)
            for lane in range(lanes.start, lanes.stop):
                self.faults[lane] = self.faults[lane] or fault

    def compacted(self, lanes: Sequence[int]) -> None:
        """Update what the host knows after compactions; waits for the device."""
        self.changes += 1
        for group in self.groups:
            group.count_dropped(lanes)

    def put(self, targets: Sequence[int], sources: Sequence[int]) -> None:
        """Copy the lanes `sources` to the lanes `targets`; all are read before any is written."""
        self.settle()
        self.changes += 1
        to, of = on_device(targets, self.device), on_device(sources, self.device)
        for tensor in self._tensors():
            tensor.index_copy_(1, to, tensor.index_select(1, of))
        put(self.tokens_seen, targets, sources)
        put(self.faults, targets, sources)
        for group in self.groups:
            group.put(targets, sources)

    def clear(self, lane: int) -> None:
        """Erase a sequence, values included: the next sequence in its lane finds nothing of it."""
        self.settle()
        self.changes += 1
        for tensor in self._tensors():
            tensor[:, lane] = 0
        self.tokens_seen[lane] = 0
        self.faults[lane] = None
        for group in self.groups:
            group.clear(lane)

    def save(self, lane: int) -> SavedLane:
        """A copy of a sequence, which `load` writes into any lane of any store of this shape."""
        self.settle()
        seen = self.tokens_seen[lane]
        return SavedLane(
            groups=[group.save(lane) for group in self.groups],
            windows=[row.clone() for row in self._window_rows(lane, seen)],
            states={} if self.states is None else self.states.save_lane(lane),
            tokens_seen=seen,
            fault=self.faults[lane],
        )

    def load(self, lane: int, saved: SavedLane) -> None:
        """Write a saved sequence into a lane; there must be room for its entries."""
        self.clear(lane)
        self.tokens_seen[lane] = saved.tokens_seen
        self.faults[lane] = saved.fault
        for group, rows in zip(self.groups, saved.groups, strict=True):
            group.load(lane, rows)
        own = self._window_rows(lane, saved.tokens_seen)
        for row, copy in zip(own, saved.windows, strict=True):
            row.copy_(copy)
        if self.states is not None:
            self.states.load_lane(lane, saved.states)

    def _window_rows(self, lane: int, seen: int) -> list[Tensor]:
        """A lane's rows of the layers with a window, as far as they are in use."""
        windows = [] if self.windows is None else self.windows.tensors
        return [tensor[:, lane, :, :seen] for tensor in windows]

    def _tensors(self) -> list[Tensor]:
        """All tensors with data of sequences; their axis 1 is the lane."""
        return [tensor for part in self._parts for tensor in part.tensors]
