"""A slot store with something in it, and a record of what was put there."""

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from skipkv._types import Needs
from skipkv.runtime.store.decode import DecodeForward
from skipkv.runtime.store.forward import Forward, PromptForward, SlotPrompts
from skipkv.runtime.store.kernels import sdpa
from skipkv.runtime.store.slots import CacheShape, LayerGroup
from skipkv.runtime.store.softmax import PLAIN
from skipkv.runtime.store.store import SlotStore

SHAPE = CacheShape(layers=2, heads=2, groups=2, dim=3)
LONGEST = 100


class Original:
    """Keys, values and queries of one sequence at all its positions, as its model makes them."""

    def __init__(self, seed: int, shape: CacheShape = SHAPE) -> None:
        random = torch.Generator().manual_seed(seed)
        axes = shape.layers, shape.heads, LONGEST, shape.dim
        self.keys = torch.randn(*axes, generator=random)
        self.values = torch.randn(*axes, generator=random)
        self.queries = torch.randn(*axes[:2], shape.groups, *axes[2:], generator=random)


APART = {(1,): 18, (0,): 16}
"""Capacities of a store whose layers do not lie together."""


def empty(
    *,
    sequences: int = 3,
    capacity: int | Mapping[tuple[int, ...], int] = 16,
    needs: Needs | None = None,
    dtype: torch.dtype = torch.float32,
    shape: CacheShape = SHAPE,
) -> SlotStore:
    return SlotStore(
        shape, sequences=sequences, capacity=capacity, needs=needs or Needs(), dtype=dtype
    )


def left_padded(rows: Sequence[Tensor], columns: int, axis: int, padding: float) -> Tensor:
    """Rows of different lengths along `axis`, as one batch that ends in the last column."""
    batch = []
    for row in rows:
        shape = list(row.shape)
        shape[axis] = columns - shape[axis]
        batch.append(torch.cat([row.new_full(shape, padding), row], dim=axis))
    return torch.stack(batch)


def feed(
    store: SlotStore,
    originals: Sequence[Original],
    counts: Sequence[int],
    *,
    first: int = 0,
    columns: int | None = None,
) -> tuple[Forward, Tensor]:
    """One forward pass through all layers; `originals` are those of all sequences of the store.

    Keys and values of padding are NaN, so that one that is stored shows. Also returns the queries,
    [layers, B, H, G, T, D], which are finite in padding, as a model's are.
    """
    columns = columns or max(counts)
    before = [store.tokens_seen[first + row] for row in range(len(counts))]
    if columns == 1 and all(before) and all(counts):
        forward: Forward = DecodeForward(store, first=first, last=first + len(counts))
        forward.begin()
    else:
        forward = PromptForward(store, first=first, counts=counts, columns=columns)

    def batch(kind: str, layer: int, padding: float) -> Tensor:
        tensors = [getattr(originals[first + row], kind)[layer] for row in range(len(counts))]
        rows = [
            tensor[..., start : start + count, :]
            for tensor, start, count in zip(tensors, before, counts, strict=True)
        ]
        return left_padded(rows, columns, -2, padding).to(store.dtype)

    queries = [batch("queries", layer, 1.0) for layer in range(store.shape.layers)]
    for layer in range(store.shape.layers):
        part, at = forward.of[layer]
        part.write(at, batch("keys", layer, torch.nan), batch("values", layer, torch.nan))
        if isinstance(part, SlotPrompts):
            part.observe(at, queries[layer], PLAIN)
        elif store.groups[0].ring:
            part.observe(at, queries[layer].squeeze(3))
    return forward, torch.stack(queries)


def decode(
    store: SlotStore,
    originals: Sequence[Original],
    *,
    first: int,
    last: int,
    steps: int,
    fixed: bool = False,
) -> DecodeForward:
    """Decode steps of one object, nothing read in between."""
    kernel = sdpa if fixed else None
    forward = DecodeForward(store, first=first, last=last, kernel=kernel)
    starts = store.tokens_seen[first:last]
    for step in range(steps):
        forward.begin()
        for layer in range(store.shape.layers):

            def batch(kind: str, layer: int = layer, step: int = step) -> Tensor:
                tensors = [getattr(original, kind)[layer] for original in originals[first:last]]
                rows = [
                    tensor[..., start + step, :]
                    for tensor, start in zip(tensors, starts, strict=True)
                ]
                return torch.stack(rows).unsqueeze(-2)

            part, at = forward.of[layer]
            part.write(at, batch("keys"), batch("values"))
            if store.groups[0].ring:
                part.observe(at, batch("queries").squeeze(3))
    return forward


def drop(store: SlotStore, keep: Tensor, sequences: Sequence[int]) -> None:
    """Compact some sequences; `keep` is [layers, n, H, L]."""
    for group in store.groups:
        own = keep[list(group.layers), ..., : max(group.widths[s] for s in sequences)]
        group.compact(slice(0, group.shape.layers), sequences, own.flatten(0, 1))
    store.compacted(sequences)


def over_layers(store: SlotStore, of: Callable[[LayerGroup], Tensor], fill: float = 0) -> Tensor:
    """A tensor [layers, S, H, capacity, ...] of all groups, filled up beyond a group's slots."""
    parts = [(group, of(group)) for group in store.groups]
    slots = max(part.shape[3] for _, part in parts)
    first = parts[0][1]
    shape = store.shape.layers, *first.shape[1:3], slots, *first.shape[4:]
    found = first.new_full(shape, fill)
    for group, part in parts:
        found[list(group.layers), :, :, : part.shape[3]] = part
    return found


def lengths(store: SlotStore) -> Tensor:
    """Entries of each head, [layers, S, H]."""
    return (all_positions(store) >= 0).sum(dim=-1)


def all_positions(store: SlotStore) -> Tensor:
    """The positions of all slots, [layers, S, H, capacity]."""

    def of(group: LayerGroup) -> Tensor:
        everything = slice(0, group.shape.layers), range(store.sequences)
        return group.positions(*everything, group.capacity)

    return over_layers(store, of, -1)


def held(store: SlotStore, layer: int, sequence: int, head: int) -> list[int]:
    """Positions a head holds, in the order of their slots."""
    positions = all_positions(store)[layer, sequence, head]
    length = int((positions >= 0).sum())
    return positions[:length].tolist()  # type: ignore[no-any-return]


def ragged(
    store: SlotStore, originals: Sequence[Original], lengths: Sequence[int], seed: int, kind: str
) -> None:
    """Feed every sequence its first tokens and drop some of them.

    Args:
        store: an empty store.
        originals: of all its sequences.
        lengths: tokens per sequence.
        seed: of what is dropped.
        kind: "uniform" drops nothing, "even" as many of each head, "ragged" heads at random.
    """
    if not any(lengths):
        return
    feed(store, originals, lengths)
    if kind == "uniform":
        return
    random = torch.Generator().manual_seed(seed)
    most = max(lengths)
    noise = torch.rand(SHAPE.layers, len(lengths), SHAPE.heads, most, generator=random)
    slots = all_positions(store)[..., :most]
    occupied = slots >= 0
    if kind == "ragged":
        # the newest stays, as under any budget: a head is never empty
        newest = slots == store.seen[:, None, None] - 1
        keep = ((noise < 0.6) | newest) & occupied
    else:
        lengths_held = occupied.sum(dim=-1)
        ranks = noise.masked_fill(~occupied, 2.0).argsort(dim=-1).argsort(dim=-1)
        keep = (ranks < (lengths_held[..., None] + 1) // 2) & occupied
    drop(store, keep, range(len(lengths)))
