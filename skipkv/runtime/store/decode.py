"""Decode steps: each feeds one token to every sequence of a range of lanes."""

from collections.abc import Mapping

import torch
from jaxtyping import Float, Int
from torch import Tensor

from skipkv._types import Written
from skipkv.runtime.store.kernels import Kernel
from skipkv.runtime.store.slots import LayerGroup
from skipkv.runtime.store.softmax import PLAIN, Softmax, observed
from skipkv.runtime.store.store import SlotStore
from skipkv.runtime.store.windows import WindowSteps


class DecodeForward:
    """What cache and attention need to know while the lanes `first .. last` decode.

    One object serves many steps: `begin` prepares the next one, as long as the object is `current`.
    What differs from one group of layers to another is in its `groups`.

    Args:
        store: the cache.
        first: the first lane.
        last: the lane after the last.
        interval: decode steps between two events. Only the queries of the window before an event
            are recorded. None records all.
        kernel: attends to the whole capacity under a mask. All queries are then recorded, and every
            step runs the same operations on the same tensors. Statistics of attention record
            all queries as well, and are brought up to date later (`SlotStore.settle`).
    """

    decoding = True
    columns = 1

    def __init__(
        self,
        store: SlotStore,
        *,
        first: int,
        last: int,
        interval: int | None = None,
        kernel: Kernel | None = None,
    ) -> None:
        self.store = store
        self.first, self.last = first, last
        self.lanes = lanes = slice(first, last)
        self.kernel = kernel
        self.fixed = kernel is not None
        window = store.needs.queries
        seldom = window and not store.needs.weights and not self.fixed
        self._cycle = (window, interval) if seldom and interval is not None else None
        """Queries that an event reads, and steps between two events; None records all queries."""
        seen = store.tokens_seen[lanes]
        self.newest = seen[0] - 1 if len(set(seen)) == 1 and not self.fixed else None
        """The position fed now, if it is the same in all lanes and the host knows it."""
        self._phases = {tokens - 1 for tokens in seen}
        self._step = 0
        self._ring = store.groups[0].ring
        self.observes = self._in_window()
        """Whether this step's queries are recorded."""
        self.positions: Int[Tensor, "B 1"] = torch.empty(
            last - first, 1, dtype=torch.long, device=store.device
        )
        if self._ring:
            rows = store.shape.heads * store.shape.groups
            numbers = torch.arange((last - first) * rows, device=store.device)
            self._ring_starts = numbers.view(last - first, -1) * self._ring
        self._in_ring: Int[Tensor, "N"] | None = None
        self.groups = [SlotSteps(self, group) for group in store.groups]
        self.of = store.by_layer(self.groups)
        """Of each stored layer the steps of its group, and the layer's index there."""
        self.windows = None
        """The same for the layers with a window; None where there are none."""
        if store.windows is not None:
            self.windows = WindowSteps(store.windows, first=first, last=last, fixed=self.fixed)
        self.refresh()

    def refresh(self) -> None:
        """Compute the position, slot and mask of each lane and head into the same tensors."""
        self.positions.copy_(self.store.seen[self.lanes, None] - 1)
        for group in self.groups:
            group.refresh()
        self.store.changes += 1  # any other object's mask is overwritten
        self._changes = self.store.changes

    @property
    def current(self) -> bool:
        """Whether the store has room and only this object's own steps have changed it."""
        return self._changes == self.store.changes and (
            self.fixed or all(steps.width < steps.group.capacity for steps in self.groups)
        )

    def begin(self) -> None:
        """Prepare the next step, on the device and on the host."""
        self.store.before_step(self.first, self.last)
        self.count()
        self.place()

    def place(self) -> None:
        """The device's part of `begin`: the same operations every time."""
        if self.fixed:
            self.positions += 1
        else:  # a new tensor, because hooks on the model may keep the old one
            self.positions = self.positions + 1
        self._in_ring = None
        for steps in self.groups:
            steps.place()
        if self.windows is not None:
            self.windows.place(self.positions, self.store.tokens_seen[self.lanes])

    def count(self) -> None:
        """The host's part of `begin`; it does not wait for the device."""
        self._step += 1
        if self.newest is not None:
            self.newest += 1
        if not self.fixed:
            for steps in self.groups:
                steps.width += 1
        self.store.step(self.first, self.last)
        self.observes = self._in_window()

    def _in_window(self) -> bool:
        """Whether this step's queries are read: in the window of some row's next event, or all."""
        if self._cycle is None:
            return bool(self._ring)
        window, interval = self._cycle
        return any(-(phase + self._step) % interval < window for phase in self._phases)

    def in_ring(self) -> Int[Tensor, "N"]:
        """Where this step's queries lie in the ring of any layer, whose rows lie end to end."""
        if self._in_ring is None:
            places = self.positions % self._ring
            self._in_ring = (self._ring_starts + places).flatten()
        return self._in_ring


class SlotSteps:
    """Decode steps in the layers of one group.

    Where all heads of all lanes hold equally many entries, all new entries go into the same slot
    and no mask is needed. Elsewhere each head has its own next slot, and a mask hides free slots.
    Slots and mask are computed once, and advance by one slot at every step.

    Args:
        forward: the steps, as all groups know them.
        group: the layers' entries.
    """

    def __init__(self, forward: DecodeForward, group: LayerGroup) -> None:
        self.group = group
        self._forward, self._lanes = forward, forward.lanes
        lanes, count = forward.lanes, forward.last - forward.first
        widths = group.widths[lanes]
        level = not forward.fixed and all(group.even[lanes])
        self.even = level and len(set(widths)) == 1
        self.width = group.capacity if forward.fixed else max(widths)
        depth, heads = group.shape.layers, group.shape.heads
        # views per layer, made once: a step only narrows them
        self._keys = group.keys[:, lanes].unbind()
        self._values = group.values[:, lanes].unbind()
        self._all_keys = group.keys.view(-1, group.shape.dim)
        self._all_values = group.values.view(-1, group.shape.dim)
        # The rest is used only where not all heads hold equally many entries.
        axes = depth, count, heads
        self._lengths = torch.empty(axes, dtype=torch.int32, device=group.keys.device)
        # newest slots, indices into all slots of the group
        self._slots = torch.empty_like(self._lengths, dtype=torch.long)
        # Where the heads of every lane hold equally many, they share the mask of the first head.
        some = slice(0, 1 if level else None)
        self._masked = self._lengths[some, :, some]
        self._opened = self._slots[some, :, some].view(-1)
        self._mask = group.bias[some, lanes, some]  # [#layers B #H capacity]
        self._biases = self._mask.expand(depth, -1, -1, -1).unsqueeze(3).unbind()
        self._rings = None if group.queries is None else group.queries[:, lanes].unbind()

    def refresh(self) -> None:
        """Compute the slot and the mask of each lane and head into the same tensors."""
        if self.even:
            return
        group, lanes = self.group, self._lanes
        self._lengths.copy_(group.lengths[:, lanes])
        self._slots.copy_(group.starts[:, lanes] + self._lengths - 1)
        slots = torch.arange(group.capacity, device=self._slots.device)
        free = slots >= self._masked[..., None]
        self._mask.zero_().masked_fill_(free, -torch.inf)

    def place(self) -> None:
        """Advance by a slot: the same operations every time."""
        if self._forward.fixed:
            self._lengths += 1
        if not self.even:
            self._slots += 1
            self.group.bias.view(-1).index_fill_(0, self._opened, 0)

    def write(
        self, layer: int, keys: Float[Tensor, "B H 1 D"], values: Float[Tensor, "B H 1 D"]
    ) -> tuple[Float[Tensor, "B H L D"], Float[Tensor, "B H L D"]]:
        """Store a layer's new keys and values; return all that its rows attend to, as views."""
        width, held_keys, held_values = self.width, self._keys[layer], self._values[layer]
        if self.even:
            held_keys.narrow(2, width - 1, 1).copy_(keys)
            held_values.narrow(2, width - 1, 1).copy_(values)
        else:
            at, dim = self._slots[layer].view(-1), keys.shape[-1]
            self._all_keys.index_copy_(0, at, keys.reshape(-1, dim))
            self._all_values.index_copy_(0, at, values.reshape(-1, dim))
        return held_keys.narrow(2, 0, width), held_values.narrow(2, 0, width)

    def note(self, layer: int, written: Mapping[Written, Float[Tensor, "B H 1"]]) -> None:
        """Store what parts say of a layer's new entries, beside them."""
        for record, values in written.items():
            held = self.group.records[record]
            if self.even:
                held[layer, self._lanes].narrow(2, self.width - 1, 1).copy_(values)
            else:
                held.view(-1).index_copy_(0, self._slots[layer].view(-1), values.reshape(-1))

    def observe(self, layer: int, queries: Float[Tensor, "B H G D"]) -> None:
        """Record a layer's queries for the next event."""
        assert self._rings is not None
        ring, newest = self._rings[layer], self._forward.newest
        queries = queries.detach()
        if newest is not None:
            ring.select(3, newest % self.group.ring).copy_(queries)
            return
        dim = queries.shape[-1]
        ring.view(-1, dim).index_copy_(0, self._forward.in_ring(), queries.reshape(-1, dim))

    def attend(
        self,
        layer: int,
        query: Float[Tensor, "B H G D"],
        key: Float[Tensor, "B H L D"],
        value: Float[Tensor, "B H L D"],
        scale: float,
        softmax: Softmax = PLAIN,
    ) -> Float[Tensor, "B H G D"]:
        """One query per row: the `G` query heads of a KV head are its queries."""
        self.group.softmax[layer] = softmax
        if self._forward.observes:
            self.observe(layer, observed(query, scale))
        bias = self.bias(layer)
        if not softmax.plain:
            return softmax.attend(query, key, value, bias, scale)[0]
        if (kernel := self._forward.kernel) is not None:
            assert bias is not None
            return kernel(query, key, value, bias, self._lengths[layer], scale)
        fused: Tensor = torch.nn.functional.scaled_dot_product_attention(
            query, key, value, attn_mask=bias, scale=scale
        )
        return fused

    def bias(self, layer: int) -> Float[Tensor, "B #H 1 L"] | None:
        """The mask to add to the logits of one query per row; None if no slot is free."""
        return None if self.even else self._biases[layer].narrow(3, 0, self.width)
