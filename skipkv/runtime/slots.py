"""The storage of the KV cache: every entry of every layer, sequence and head, in one allocation."""

from collections.abc import Sequence

import attrs
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from skipkv._types import Needs


@attrs.frozen(kw_only=True)
class CacheShape:
    """The fixed axes of a cache.

    Args:
        layers: layers whose entries are stored.
        heads: KV heads.
        groups: query heads per KV head.
        dim: head size.
    """

    layers: int
    heads: int
    groups: int
    dim: int


def span(sequences: Sequence[int]) -> slice | list[int]:
    """An index of these sequences; a slice, which copies nothing, where they lie side by side."""
    if list(sequences) == list(range(sequences[0], sequences[-1] + 1)):
        return slice(sequences[0], sequences[-1] + 1)
    return list(sequences)


def on_device(counts: Sequence[int], device: torch.device) -> Int[Tensor, "B"]:
    """`counts` as a tensor; equal ones, as in decoding, are filled in there.

    A copy from the host would make the host wait for all that the device has yet to do.
    """
    if len(set(counts)) == 1:
        return torch.full((len(counts),), counts[0], device=device)
    return torch.tensor(counts, device=device)


class SlotStore:
    """Keys and values of all layers, `[layers, B, H, capacity, D]`, and what is known of them.

    The entries of a sequence, layer and head fill its first slots in the order of their positions;
    `lengths` says how many. Sequences have their own lengths, so no padding is ever stored. Running
    sequences lie side by side, `0 .. n`, so that a step works on views and copies nothing.

    Only `append`, `place`, `stepped`, `compact`, `move`, `swap` and `clear` change what is
    stored; the allocation grows in `reserve` alone, and never under a fixed budget, whose capacity
    is allocated at the start.

    What is known of the entries (`positions`, `bias`, `lengths`, `seen`, `widths`, `tokens_seen`)
    follows decode steps when somebody reads it: a step only counts.
    """

    def __init__(
        self,
        shape: CacheShape,
        *,
        sequences: int,
        capacity: int,
        needs: Needs,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
    ) -> None:
        self.shape = shape
        self.sequences = sequences
        self.needs = needs
        layers, heads = shape.layers, shape.heads

        def zeros(*axes: int, dtype: torch.dtype = dtype) -> Tensor:
            return torch.zeros(axes, dtype=dtype, device=device)

        self.keys = zeros(layers, sequences, heads, capacity, shape.dim)
        self.values = zeros(layers, sequences, heads, capacity, shape.dim)
        self._positions = zeros(layers, sequences, heads, capacity, dtype=torch.int32) - 1
        self._bias = zeros(layers, sequences, heads, capacity).fill_(-torch.inf)
        self._lengths = zeros(layers, sequences, heads, dtype=torch.long)
        self._seen = zeros(sequences, dtype=torch.long)
        self.attention = (
            zeros(layers, sequences, heads, capacity, dtype=torch.float32)
            if needs.attention
            else None
        )
        # a ring: the query of position p lies at p % W
        self.queries = (
            zeros(layers, sequences, heads, shape.groups, needs.queries, shape.dim)
            if needs.queries
            else None
        )
        # What the host knows without asking the device: besides `widths` and `tokens_seen`, whether
        # all layers and heads of a sequence hold the same positions, and whether they hold at least
        # equally many.
        self._widths = [0] * sequences
        self._tokens_seen = [0] * sequences
        self.uniform = [True] * sequences
        self.even = [True] * sequences
        self.peak_bytes = self.kv_bytes
        self.changes = 0
        """Changes so far other than by `stepped`: whoever holds views of the store compares it."""
        self._behind: tuple[int, int, bool] = 0, 0, False  # as given to `stepped`
        self._steps = 0  # decode steps that the device has not been told of
        self._uncounted = 0  # nor the host

    @property
    def starts(self) -> Int[Tensor, "layers S H"]:
        """Each head's first slot, as an index into all slots of the store."""
        layers, sequences, heads, capacity, _ = self.keys.shape
        numbers = torch.arange(layers * sequences * heads, device=self.keys.device)
        return numbers.view(layers, sequences, heads) * capacity

    @property
    def positions(self) -> Int[Tensor, "layers S H capacity"]:
        """The position of the entry in each slot; -1 in an empty one."""
        self._catch_up()
        return self._positions

    @property
    def bias(self) -> Float[Tensor, "layers S H capacity"]:
        """0 where there is an entry, -inf where there is none: attention adds it to its logits."""
        self._catch_up()
        return self._bias

    @property
    def lengths(self) -> Int[Tensor, "layers S H"]:
        """Entries each head holds."""
        self._catch_up()
        return self._lengths

    @property
    def seen(self) -> Int[Tensor, "S"]:
        """Tokens each sequence has seen."""
        self._catch_up()
        return self._seen

    @property
    def widths(self) -> list[int]:
        """The most entries a head of each sequence holds, as the host knows it."""
        self._count()
        return self._widths

    @property
    def tokens_seen(self) -> list[int]:
        """Tokens each sequence has seen, as the host knows it."""
        self._count()
        return self._tokens_seen

    @property
    def capacity(self) -> int:
        """Entries there is room for, per sequence, layer and head."""
        return self.keys.shape[3]

    @property
    def kv_bytes(self) -> int:
        """Bytes now allocated for keys and values, as the tensors' storages report them."""
        return self.keys.untyped_storage().nbytes() + self.values.untyped_storage().nbytes()

    def reserve(self, capacity: int, *, limit: int | None = None) -> None:
        """Make room for `capacity` entries, at least doubling, for caches that may grow.

        Args:
            capacity: entries there must be room for, per sequence, layer and head.
            limit: entries there can ever be; the store grows no further, and goes there at once
                where doubling almost would.
        """
        if capacity <= self.capacity:
            return
        wanted = max(capacity, 2 * self.capacity)
        if limit is not None and limit <= 1.25 * wanted:
            wanted = max(capacity, limit)
        self._changing()

        def grown(tensor: Tensor, fill: int | float) -> Tensor:
            shape = list(tensor.shape)
            held, shape[3] = shape[3], wanted
            larger = tensor.new_empty(shape)
            larger[:, :, :, :held] = tensor
            larger[:, :, :, held:] = fill
            return larger

        self.keys = grown(self.keys, 0)
        self.values = grown(self.values, 0)
        self._positions = grown(self._positions, -1)
        self._bias = grown(self._bias, -torch.inf)
        if self.attention is not None:
            self.attention = grown(self.attention, 0)
        self.peak_bytes = max(self.peak_bytes, self.kv_bytes)

    def append(
        self,
        first: int,
        counts: Sequence[int],
        rows: Int[Tensor, "M"],
        offsets: Int[Tensor, "M"],
        positions: Int[Tensor, "M"],
    ) -> Int[Tensor, "layers M H"]:
        """Make room for `M` new tokens and return the slots their keys and values go to.

        Args:
            first: the sequence that row 0 stands for.
            counts: new tokens per row, known to the host.
            rows: the row each token belongs to.
            offsets: its place among the row's new tokens, from 0.
            positions: its position.
        """
        self._changing()
        last = first + len(counts)
        layers, heads = self.shape.layers, self.shape.heads
        slots = self._lengths[:, first:last][:, rows] + offsets[:, None]
        layer_axis = torch.arange(layers, device=slots.device)[:, None, None]
        head_axis = torch.arange(heads, device=slots.device)
        index = (layer_axis, rows[:, None], head_axis, slots)
        self._positions[:, first:last][index] = positions.to(torch.int32)[:, None]
        self._bias[:, first:last][index] = 0
        added = on_device(counts, slots.device)
        self._lengths[:, first:last] += added[:, None]
        self._seen[first:last] += added
        for sequence, count in enumerate(counts, start=first):
            self._widths[sequence] += count
            self._tokens_seen[sequence] += count
        return slots

    def place(
        self,
        first: int,
        last: int,
        starts: Int[Tensor, "layers n H"],
        positions: Int[Tensor, "n"],
    ) -> Int[Tensor, "layers N"]:
        """Note on the device a token more in each of these sequences; call `stepped` as well.

        Args:
            first: the first of the sequences.
            last: behind the last of them.
            starts: each head's first slot, as an index into all slots of the store.
            positions: of the tokens.

        Returns:
            Where the new entries go, per layer for all sequences and heads in turn, as indices into
            all slots of the store.
        """
        lengths = self._lengths[:, first:last]
        slots = (starts + lengths).flatten(1)
        lengths += 1
        self._seen[first:last] += 1
        flat = slots.flatten()
        of_heads = positions.to(torch.int32)[:, None].expand(-1, self.shape.heads).flatten()
        self._positions.view(-1).index_copy_(0, flat, of_heads.repeat(self.shape.layers))
        self._bias.view(-1).index_fill_(0, flat, 0)
        return slots

    def stepped(self, first: int, last: int, *, placed: bool) -> None:
        """Count a token more in each of these sequences.

        Args:
            first: the first of the sequences.
            last: behind the last of them.
            placed: whether the device knows of it, by `place`; otherwise the heads of each of these
                sequences hold equally many entries, and the new one goes behind them.
        """
        if self._behind != (first, last, placed):
            self._catch_up()
            self._behind = first, last, placed
        self._steps += 1
        self._uncounted += 1

    def _count(self) -> None:
        """Bring what the host knows up to the decode steps done."""
        steps, self._uncounted = self._uncounted, 0
        first, last, _ = self._behind
        for sequence in range(first, last if steps else first):
            self._widths[sequence] += steps
            self._tokens_seen[sequence] += steps

    def _catch_up(self) -> None:
        """Bring what is known of the entries up to the decode steps done."""
        steps, self._steps = self._steps, 0
        self._count()
        first, last, placed = self._behind
        if not steps or placed:
            return
        with torch.inference_mode():  # in which the store may have been made
            ages = torch.arange(steps, device=self._seen.device)
            new = (self._seen[first:last, None] + ages).to(torch.int32)  # [B steps]
            widths = self._widths[first:last]
            if len(set(widths)) == 1:
                slots = slice(widths[0] - steps, widths[0])
                self._positions[:, first:last, :, slots] = new[:, None]
                self._bias[:, first:last, :, slots] = 0
            else:
                rows = torch.arange(first, last, device=ages.device)[:, None]
                at = self._lengths[0, first:last, :1] + ages  # [B steps]
                self._positions[:, rows, :, at] = new[:, :, None, None]
                self._bias[:, rows, :, at] = 0
            self._lengths[:, first:last] += steps
            self._seen[first:last] += steps

    def _changing(self) -> None:
        self._catch_up()
        self.changes += 1

    def compact(
        self, layers: slice, sequences: Sequence[int], keep: Bool[Tensor, "R H L"]
    ) -> tuple[Int[Tensor, "R H"], Int[Tensor, "R H K"]]:
        """Drop the entries that are not kept; those that are close ranks, in order.

        This is the only place where entries are dropped. It works on some layers of some sequences;
        call `compacted` for the sequences when all layers are done.

        Args:
            layers: the layers whose rows `keep` holds.
            sequences: the sequences; row r is sequence r % n of layer r // n of these.
            keep: which of the first `L` slots stay.

        Returns:
            How many entries each row and head kept, and the positions of those, -1 behind.
        """
        self._changing()
        rows, heads, width = keep.shape
        depth, count = rows // len(sequences), len(sequences)
        at = span(sequences)
        kept = keep.sum(dim=-1)  # [R H]
        most = int(kept.amax()) if kept.numel() else 0
        order = _in_order(keep, most).reshape(depth, count, heads, most)  # [l n H K]
        empty = torch.arange(most, device=keep.device) >= kept.reshape(depth, count, heads, 1)

        moving = (self.starts[layers, at, :, None] + order).flatten()
        for tensor in (self.keys, self.values):
            moved = tensor.view(-1, self.shape.dim).index_select(0, moving)
            tensor[layers, at, :, :most] = moved.view(depth, count, heads, most, self.shape.dim)
        if self.attention is not None:
            mass = self.attention[layers, at, :, :width].gather(3, order)
            self.attention[layers, at, :, :width] = 0
            self.attention[layers, at, :, :most] = mass.masked_fill(empty, 0)
        positions = self._positions[layers, at, :, :width].gather(3, order)
        positions = positions.masked_fill(empty, -1)
        self._positions[layers, at, :, :width] = -1
        self._positions[layers, at, :, :most] = positions
        self._bias[layers, at, :, :width] = -torch.inf
        self._bias[layers, at, :, :most] = torch.zeros_like(
            positions, dtype=self._bias.dtype
        ).masked_fill(empty, -torch.inf)
        self._lengths[layers, at] = kept.reshape(depth, count, heads)
        return kept, positions.reshape(rows, heads, most)

    def compacted(self, sequences: Sequence[int]) -> None:
        """Tell the host what a finished compaction left; waits for the device."""
        self._changing()
        lengths = self._lengths[:, span(sequences)]
        extremes = torch.stack([lengths.amin(dim=(0, 2)), lengths.amax(dim=(0, 2))], dim=1).tolist()
        for sequence, (narrowest, widest) in zip(sequences, extremes, strict=True):
            self._widths[sequence] = widest
            self.even[sequence] = narrowest == widest
            self.uniform[sequence] = False

    def move(self, source: int, target: int) -> None:
        """Put the sequence at `source` in the place of the one at `target`."""
        self._changing()
        for tensor in self._tensors():
            tensor[:, target] = tensor[:, source]
        self._seen[target] = self._seen[source]
        self._widths[target] = self._widths[source]
        self._tokens_seen[target] = self._tokens_seen[source]
        self.uniform[target] = self.uniform[source]
        self.even[target] = self.even[source]

    def swap(self, one: int, other: int) -> None:
        """Let two sequences change places."""
        self._changing()
        pair, exchanged = [one, other], [other, one]
        for tensor in self._tensors():
            tensor[:, pair] = tensor[:, exchanged]
        self._seen[pair] = self._seen[exchanged]
        for counts in (self._widths, self._tokens_seen):
            counts[one], counts[other] = counts[other], counts[one]
        for facts in (self.uniform, self.even):
            facts[one], facts[other] = facts[other], facts[one]

    def clear(self, sequence: int) -> None:
        """Forget a sequence, values and all: the next one in its place meets nothing of it."""
        self._changing()
        for tensor in self._tensors():
            tensor[:, sequence] = 0
        self._positions[:, sequence] = -1
        self._bias[:, sequence] = -torch.inf
        self._seen[sequence] = 0
        self._widths[sequence] = self._tokens_seen[sequence] = 0
        self.uniform[sequence] = self.even[sequence] = True

    def recent_queries(
        self, layers: slice, sequences: Sequence[int]
    ) -> Float[Tensor, "l n H G W D"] | None:
        """The last `W` queries of each of these rows, oldest first."""
        if self.queries is None:
            return None
        window = self.needs.queries
        ages = torch.arange(window, device=self.seen.device)
        ring = (self.seen[span(sequences)][:, None] + ages) % window  # [n W]
        rows = self.queries[layers, span(sequences)]
        index = ring[None, :, None, None, :, None].expand_as(rows)
        return rows.gather(4, index)

    def _tensors(self) -> list[Tensor]:
        """All tensors whose axis 1 is the sequence."""
        tensors = [self.keys, self.values, self._positions, self._bias, self._lengths]
        return tensors + [t for t in (self.attention, self.queries) if t is not None]


def _in_order(keep: Bool[Tensor, "R H L"], most: int) -> Int[Tensor, "R H K"]:
    """The slots that are kept, in order, first; 0 behind them. No head keeps over `most`."""
    slots = torch.arange(keep.shape[-1], device=keep.device).expand(keep.shape)
    places = keep.cumsum(dim=-1).sub_(1).masked_fill_(~keep, most)  # those dropped share the last
    order = places.new_zeros(*keep.shape[:2], most + 1).scatter_(-1, places, slots)
    return order[..., :most]
