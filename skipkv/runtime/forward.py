"""A forward pass over prompts: which slots its tokens fill and which they attend to."""

from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from skipkv.runtime.decode import DecodeForward
from skipkv.runtime.slots import SlotStore, on_device
from skipkv.runtime.windows import WindowPrompts


class PromptForward:
    """What the cache and the attention of every layer need to know during one pass over prompts.

    The pass feeds `T` columns to the lanes `first .. first + len(counts)`. The last `counts[b]`
    columns of row b are tokens. The columns before are padding, which is neither stored nor seen.

    A token goes into the next slot of each head, and sees the slots up to its own.

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
        lanes, device = slice(first, self.last), store.keys.device
        seen = store.seen[lanes]
        place = torch.arange(columns, device=device)
        place = place - (columns - on_device(counts, device)[:, None])  # [B T], negative in padding
        self._real: Bool[Tensor, "B T"] = place >= 0
        self.positions: Int[Tensor, "B T"] = (seen[:, None] + place).clamp_min(0)
        # The slot of each column. Padding has none. It attends to the entries before the pass, or
        # to slot 0, so that its softmax is defined. Its result is unused.
        own = store.lengths[:, lanes, :, None] + place[:, None]
        self._own: Int[Tensor, "layers B H T"] = own.clamp_min_(0)
        self._rows, self._columns = self._real.nonzero(as_tuple=True)
        if store.queries is not None:
            newest = self._real & (place >= place[:, -1:] + 1 - store.needs.queries)
            self._newest = newest.nonzero(as_tuple=True)
            self._in_ring = self.positions[self._newest] % store.needs.queries
        self.windows = None
        """The same for the layers with a window; None where there are none."""
        if store.windows is not None:
            self.windows = WindowPrompts(
                store.windows, first=first, seen=store.tokens_seen[lanes], place=place
            )
        store.append(first, counts)
        self.width = max(store.widths[lanes])
        self._even = all(store.even[lanes])  # then all heads and layers share a mask
        self._shared_mask: Bool[Tensor, "B 1 T L"] | None = None
        self._heads = torch.arange(store.shape.heads, device=device)

    def write(
        self, layer: int, keys: Float[Tensor, "B H T D"], values: Float[Tensor, "B H T D"]
    ) -> tuple[Float[Tensor, "B H L D"], Float[Tensor, "B H L D"]]:
        """Store a layer's new keys and values; return all that its rows may attend to, as views."""
        slots = self._own[layer][self._rows, :, self._columns]  # [M H]
        index = (self._rows[:, None], self._heads, slots)
        stored = []
        for cache, new in ((self.store.keys, keys), (self.store.values, values)):
            rows = cache[layer, self.first : self.last]
            rows[index] = new.detach()[self._rows, :, self._columns]  # [M H D]
            stored.append(rows[:, :, : self.width])
        return stored[0], stored[1]

    def observe(self, layer: int, queries: Float[Tensor, "B H G T D"]) -> None:
        """Record a layer's most recent queries, if some part needs them."""
        if self.store.queries is None:
            return
        rows, columns = self._newest
        ring = self.store.queries[layer, self.first : self.last]
        ring[rows, :, :, self._in_ring] = queries.detach()[rows, :, :, columns]

    def add_attention(
        self, layer: int, weights: Float[Tensor, "B H G t L"], columns: slice
    ) -> None:
        """Bring the statistics of attention up to date with tokens of these columns."""
        real = self._real[:, columns]
        weights = weights.detach() * real[:, None, None, :, None]
        positions = self.positions[:, columns].masked_fill(~real, -1)
        newest = self._own[layer, :, :, -1:]
        free = torch.arange(self.width, device=newest.device) > newest
        lanes = slice(self.first, self.last)
        self.store.receive(layer, lanes, weights, positions, free)

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
"""A forward pass under way, as the cache and attention see it."""
