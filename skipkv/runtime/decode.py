"""Decode steps: one token more for each of some sequences, step after step."""

from collections.abc import Mapping, Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor

from skipkv.runtime.kernels import Kernel
from skipkv.runtime.slots import SlotStore


class DecodeForward:
    """What cache and attention need to know while sequences `first .. last` decode.

    One object lasts until something else touches the store (`current` tells), and `begin` makes it
    ready for the next step. How much a step must look up depends on what the host knows:

    * All rows hold equally many entries, in every head: the new ones go into one slot behind the
      others, and no mask is needed. A step touches nothing but keys and values.
    * Each row holds as many entries in one head as in the next, but not as many as other rows: the
      new ones go one slot further in each row than at the step before, under a mask of rows.
    * Heads differ: slots are looked up on the device, and the store's own bias masks what is empty.

    Args:
        store: the cache.
        layers: layer of the model -> layer of the store.
        first: the first sequence.
        last: behind the last sequence.
        interval: decode steps between two events; the queries of the window before an event are
            recorded, others are not. None records all.
        kernel: look slots up on the device, attend to the whole capacity with this and record all
            queries, so that a step is the same operations on the same tensors as any other.
    """

    decoding = True
    columns = 1

    def __init__(
        self,
        store: SlotStore,
        layers: Mapping[int, int],
        *,
        first: int,
        last: int,
        interval: int | None = None,
        kernel: Kernel | None = None,
    ) -> None:
        self.store = store
        self.layers = layers
        self.first, self.last = first, last
        self._kernel = kernel
        self.fixed = kernel is not None
        self._interval = interval
        widths, seen = store.widths[first:last], store.tokens_seen[first:last]
        self._level = kernel is None and all(store.even[first:last])
        self.even = self._level and len(set(widths)) == 1
        self.width = store.capacity if self.fixed else max(widths)
        self.newest = seen[0] - 1 if len(set(seen)) == 1 and not self.fixed else None
        """The position now fed to every row, where it is one and the host may say so."""
        self.positions: Int[Tensor, "B 1"] = store.seen[first:last, None] - 1
        self._phases = {tokens - 1 for tokens in seen}
        self._step = 0
        self._observes = self._in_window()
        self._changes = store.changes
        self.rows = torch.arange(last - first, device=store.keys.device)
        # views of every layer, so that a step only narrows them
        self._keys = store.keys[:, first:last].unbind()
        self._values = store.values[:, first:last].unbind()
        self._biases: Sequence[Float[Tensor, "B #H 1 capacity"]] = ()
        self._slots: Sequence[Int[Tensor, "N"]] = ()  # per layer, among all slots of the store
        if not self.even:
            self._all_keys = store.keys.view(-1, store.shape.dim)
            self._all_values = store.values.view(-1, store.shape.dim)
            self._starts = store.starts[:, first:last]
            if self._level:
                self._prepare_level()
            else:
                self._biases = store.bias[:, first:last, :, None].unbind()
        if store.queries is not None:
            self._rings = store.queries[:, first:last].unbind()
            self._ring_starts = torch.arange(
                self._rings[0][..., 0, 0].numel(), device=self.rows.device
            )
            self._ring_starts = self._ring_starts.view(last - first, -1) * store.needs.queries
        self._in_ring: Int[Tensor, "N"] | None = None

    def _prepare_level(self) -> None:
        """Where the newest entries lie, of which each step takes the next; and a mask of rows."""
        capacity = self.store.capacity
        held = self.store.lengths[0, self.first : self.last, 0]  # [B]
        newest = self._starts + held[:, None] - 1  # [layers B H]
        in_mask = self.rows * capacity + held - 1
        self._newest = torch.cat([newest.flatten(), in_mask])
        self._slots = self._newest[: newest.numel()].view(len(newest), -1).unbind()
        self._in_mask = self._newest[newest.numel() :]
        empty = torch.arange(capacity, device=held.device) >= held[:, None]
        mask = torch.zeros(empty.shape, dtype=self.store.keys.dtype, device=held.device)
        self._mask = mask.masked_fill_(empty, -torch.inf).view(-1)
        self._biases = [self._mask.view(-1, 1, 1, capacity)] * len(newest)

    @property
    def current(self) -> bool:
        """Whether the store has room and has not changed but by this object's own steps."""
        return self._changes == self.store.changes and (
            self.fixed or self.width < self.store.capacity
        )

    def refresh(self) -> None:
        """Follow what else has changed the store, on the same tensors, where they are fixed."""
        self.positions.copy_(self.store.seen[self.first : self.last, None] - 1)
        self._changes = self.store.changes

    def begin(self) -> None:
        """Make ready for the next step, on the device and on the host."""
        self.place()
        self.count()

    def place(self) -> None:
        """What the device does at the beginning of a step; the same operations every time."""
        if self.fixed:
            self.positions += 1
        else:  # a tensor of its own: whoever watches the model may keep it
            self.positions = self.positions + 1
        self._in_ring = None
        if self.even:
            return
        if self._level:
            self._newest += 1
            self._mask.index_fill_(0, self._in_mask, 0)
            return
        slots = self.store.place(self.first, self.last, self._starts, self.positions[:, 0])
        self._slots = slots.unbind()

    def count(self) -> None:
        """What the host does for a step, without asking the device."""
        self._step += 1
        if self.newest is not None:
            self.newest += 1
        if not self.fixed:
            self.width += 1
        self.store.stepped(self.first, self.last, placed=not self._level)
        self._observes = self._in_window()

    def _in_window(self) -> bool:
        """Whether this step's queries belong to the window of some row's next event."""
        window, interval = self.store.needs.queries, self._interval
        if not window or interval is None or self.fixed:
            return bool(window)
        return any(-(phase + self._step) % interval < window for phase in self._phases)

    def write(
        self, layer: int, keys: Float[Tensor, "B H 1 D"], values: Float[Tensor, "B H 1 D"]
    ) -> tuple[Float[Tensor, "B H L D"], Float[Tensor, "B H L D"]]:
        """Store a layer's new keys and values; return all that its rows attend to, as views."""
        width, held_keys, held_values = self.width, self._keys[layer], self._values[layer]
        if self.even:
            held_keys.narrow(2, width - 1, 1).copy_(keys)
            held_values.narrow(2, width - 1, 1).copy_(values)
        else:
            at, dim = self._slots[layer], keys.shape[-1]
            self._all_keys.index_copy_(0, at, keys.reshape(-1, dim))
            self._all_values.index_copy_(0, at, values.reshape(-1, dim))
        return held_keys.narrow(2, 0, width), held_values.narrow(2, 0, width)

    def observe(self, layer: int, queries: Float[Tensor, "B H G D"]) -> None:
        """Remember a layer's queries for the next event."""
        ring, window = self._rings[layer], self.store.needs.queries
        if self.newest is not None:
            ring.select(3, self.newest % window).copy_(queries)
            return
        if self._in_ring is None:  # the same in all layers
            self._in_ring = (self._ring_starts + self.positions % window).flatten()
        dim = queries.shape[-1]
        ring.view(-1, dim).index_copy_(0, self._in_ring, queries.reshape(-1, dim))

    def add_attention(self, layer: int, weights: Float[Tensor, "B H G L"]) -> None:
        """Add what each entry received, over query heads."""
        assert self.store.attention is not None
        mass = self.store.attention[layer, self.first : self.last, :, : self.width]
        mass += weights.sum(dim=2)

    def attend(
        self,
        layer: int,
        query: Float[Tensor, "B H G D"],
        key: Float[Tensor, "B H L D"],
        value: Float[Tensor, "B H L D"],
        scale: float,
    ) -> Float[Tensor, "B H G D"]:
        """One query per row: the `G` query heads of a KV head are its queries."""
        if self._observes:
            self.observe(layer, query)
        bias = self.bias(layer)
        if self.store.attention is not None:
            logits = (query @ key.mT).float() * scale  # [B H G L]
            weights = (logits if bias is None else logits + bias).softmax(dim=-1)
            self.add_attention(layer, weights)
            seen: Tensor = weights.to(value.dtype) @ value
            return seen
        if self._kernel is not None:
            assert bias is not None
            lengths = self.store.lengths[layer, self.first : self.last]
            return self._kernel(query, key, value, bias, lengths, scale)
        fused: Tensor = torch.nn.functional.scaled_dot_product_attention(
            query, key, value, attn_mask=bias, scale=scale
        )
        return fused

    def bias(self, layer: int) -> Float[Tensor, "B #H 1 L"] | None:
        """What to add to the logits of one query per row; None where every slot holds an entry."""
        return None if self.even else self._biases[layer].narrow(3, 0, self.width)
