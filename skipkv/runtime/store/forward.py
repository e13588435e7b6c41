"""A forward pass over prompts: which slots its tokens fill and which they attend to."""

from collections.abc import Mapping, Sequence

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from skipkv._types import Written
from skipkv.runtime.store.decode import DecodeForward, SlotSteps
from skipkv.runtime.store.slots import LayerGroup, on_device
from skipkv.runtime.store.softmax import Softmax
from skipkv.runtime.store.store import SlotStore
from skipkv.runtime.store.windows import WindowPrompts, WindowSteps


class PromptForward:
    """What the cache and the attention of every layer need to know during one pass over prompts.

    The pass feeds `T` columns to the lanes `first .. first + len(counts)`. The last `counts[b]`
    columns of row b are tokens. The columns before are padding, which is neither stored nor seen.
    What differs from one group of layers to another is in its `groups`.

    Args:
        store: the cache. Its token counts grow when this object is made.
        first: the first lane.
        counts: tokens of each lane.
        columns: columns of the pass, at least as many as any lane has tokens.
    """

    decoding = False

    def __init__(
        self,
        store: SlotStore,
        *,
        first: int,
        counts: Sequence[int],
        columns: int,
    ) -> None:
        self.store = store
        self.first, self.last = first, first + len(counts)
        self.counts = counts
        self.columns = columns
        self.lanes = lanes = slice(first, self.last)
        place = torch.arange(columns, device=store.device)
        # [B T], negative in padding
        self.place = place - (columns - on_device(counts, store.device)[:, None])
        self.real: Bool[Tensor, "B T"] = self.place >= 0
        seen = store.seen[lanes]
        self.positions: Int[Tensor, "B T"] = (seen[:, None] + self.place).clamp_min(0)
        self.tokens = self.real.nonzero(as_tuple=True)
        """Rows and columns of the tokens."""
        self.groups = [SlotPrompts(self, group) for group in store.groups]
        self.of = store.by_layer(self.groups)
        """Of each stored layer the pass in its group, and the layer's index there."""
        self.windows = None
        """The same for the layers with a window; None where there are none."""
        if store.windows is not None:
            self.windows = WindowPrompts(
                store.windows, first=first, seen=store.tokens_seen[lanes], place=self.place
            )
        store.append(first, counts)
        for prompts in self.groups:
            prompts.width = max(prompts.group.widths[lanes])


class SlotPrompts:
    """A pass over prompts in the layers of one group.

    A token goes into the next slot of each head, and sees the slots up to its own.

    Args:
        forward: the pass, as all groups know it.
        group: the layers' entries before the pass.
    """

    width: int
    """The most entries of a head after the pass."""

    def __init__(self, forward: PromptForward, group: LayerGroup) -> None:
        self.group = group
        self._forward, self._lanes = forward, forward.lanes
        place = forward.place
        # The slot of each column. Padding has none. It attends to the entries before the pass, or
        # to slot 0, so that its softmax is defined. Its result is unused.
        own = group.lengths[:, forward.lanes, :, None] + place[:, None]
        self._own: Int[Tensor, "layers B H T"] = own.clamp_min_(0)
        if group.queries is not None:
            newest = forward.real & (place >= place[:, -1:] + 1 - group.ring)
            self._newest = newest.nonzero(as_tuple=True)
            self._in_ring = forward.positions[self._newest] % group.ring
        self._even = all(group.even[forward.lanes])  # then all heads and layers share a mask
        self._shared_mask: Bool[Tensor, "B 1 T L"] | None = None
        self._heads = torch.arange(group.shape.heads, device=place.device)

    def write(
        self, layer: int, keys: Float[Tensor, "B H T D"], values: Float[Tensor, "B H T D"]
    ) -> tuple[Float[Tensor, "B H L D"], Float[Tensor, "B H L D"]]:
        """Store a layer's new keys and values; return all that its rows may attend to, as views."""
        rows, columns = self._forward.tokens
        slots = self._own[layer][rows, :, columns]  # [M H]
        index = (rows[:, None], self._heads, slots)
        stored = []
        for cache, new in ((self.group.keys, keys), (self.group.values, values)):
            held = cache[layer, self._lanes]
            held[index] = new.detach()[rows, :, columns]  # [M H D]
            stored.append(held[:, :, : self.width])
        return stored[0], stored[1]

    def note(self, layer: int, written: Mapping[Written, Float[Tensor, "B H T"]]) -> None:
        """Store what parts say of a layer's new entries, beside them."""
        rows, columns = self._forward.tokens
        index = (rows[:, None], self._heads, self._own[layer][rows, :, columns])
        for record, values in written.items():
            self.group.records[record][layer, self._lanes][index] = values[rows, :, columns]

    def observe(self, layer: int, queries: Float[Tensor, "B H G T D"], softmax: Softmax) -> None:
        """Record how a layer computes weights and, if some part needs them, its last queries."""
        self.group.softmax[layer] = softmax
        if self.group.queries is None:
            return
        rows, columns = self._newest
        ring = self.group.queries[layer, self._lanes]
        ring[rows, :, :, self._in_ring] = queries.detach()[rows, :, :, columns]

    @property
    def weighs(self) -> bool:
        """Whether `add_attention` wants the weights."""
        return self.group.needs.weights

    def add_attention(
        self, layer: int, weights: Float[Tensor, "B H G t L"], columns: slice
    ) -> None:
        """Bring the statistics of attention up to date with tokens of these columns."""
        real = self._forward.real[:, columns]
        weights = weights.detach() * real[:, None, None, :, None]
        positions = self._forward.positions[:, columns].masked_fill(~real, -1)
        newest = self._own[layer, :, :, -1:]
        free = torch.arange(self.width, device=newest.device) > newest
        with self._forward.store.counting(self._lanes):
            self.group.receive(layer, self._lanes, weights, positions, free)

    def mask(self, layer: int) -> Bool[Tensor, "B #H T L"]:
        """The slots each column may see: its own and those before."""
        if self._shared_mask is not None:
            return self._shared_mask
        own = self._own[layer, :, : 1 if self._even else None, :, None]
        mask = torch.arange(self.width, device=own.device) <= own
        if self._even:
            self._shared_mask = mask
        return mask


Forward = PromptForward | DecodeForward
"""A forward pass under way."""
Prompts = SlotPrompts | WindowPrompts
Steps = SlotSteps | WindowSteps
"""What layers of one kind do in it."""
