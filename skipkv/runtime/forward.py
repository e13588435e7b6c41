"""A forward pass over prompts: where its tokens go and what they may see."""

from collections.abc import Mapping, Sequence

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from skipkv.runtime.decode import DecodeForward
from skipkv.runtime.slots import SlotStore, on_device


class PromptForward:
    """What the cache and the attention of every layer need to know during one pass over prompts.

    The pass feeds `T` columns to the sequences `first .. first + len(counts)`; of row b the last
    `counts[b]` columns are real tokens, those before are padding, which is neither stored nor seen.

    Built once per pass: it reserves the slots of the new tokens in all layers at once, so that a
    layer does nothing but write its keys and values there.
    """

    decoding = False

    def __init__(
        self,
        store: SlotStore,
        layers: Mapping[int, int],
        *,
        first: int,
        counts: Sequence[int],
        columns: int,
    ) -> None:
        self.store = store
        self.layers = layers  # layer of the model -> layer of the store
        self.first, self.last = first, first + len(counts)
        self.counts = counts
        self.columns = columns
        device = store.keys.device
        seen = store.seen[first : self.last].clone()
        padding = columns - on_device(counts, device)[:, None]
        place = torch.arange(columns, device=device) - padding  # [B T], negative in padding
        self._real: Bool[Tensor, "B T"] = place >= 0
        self._rows, self._columns = self._real.nonzero(as_tuple=True)
        offsets = place[self._rows, self._columns]
        self.positions: Int[Tensor, "B T"] = (seen[:, None] + place).clamp_min(0)
        self._token_positions = self.positions[self._rows, self._columns]
        self._slots = store.append(first, counts, self._rows, offsets, self._token_positions)
        self.width = max(store.widths[first : self.last])
        self._uniform = all(store.uniform[first : self.last])
        self._shared_mask: Bool[Tensor, "B 1 T L"] | None = None
        self._heads = torch.arange(store.shape.heads, device=device)

    def write(
        self, layer: int, keys: Float[Tensor, "B H T D"], values: Float[Tensor, "B H T D"]
    ) -> tuple[Float[Tensor, "B H L D"], Float[Tensor, "B H L D"]]:
        """Store a layer's new keys and values; return all that its rows may attend to, as views."""
        index = (self._rows[:, None], self._heads, self._slots[layer])
        stored = []
        for cache, new in ((self.store.keys, keys), (self.store.values, values)):
            rows = cache[layer, self.first : self.last]
            rows[index] = new.detach()[self._rows, :, self._columns]  # [M H D]
            stored.append(rows[:, :, : self.width])
        return stored[0], stored[1]

    def observe(self, layer: int, queries: Float[Tensor, "B H G T D"]) -> None:
        """Remember a layer's most recent queries, if some part needs them."""
        if self.store.queries is None:
            return
        rows, columns, positions = self._rows, self._columns, self._token_positions
        window = self.store.needs.queries
        recent = positions >= self.store.seen[self.first : self.last][rows] - window
        rows, columns, positions = rows[recent], columns[recent], positions[recent]
        ring = self.store.queries[layer, self.first : self.last]
        ring[rows, :, :, positions % window] = queries.detach()[rows, :, :, columns]

    def add_attention(
        self, layer: int, weights: Float[Tensor, "B H G t L"], columns: slice
    ) -> None:
        """Add what each entry received from these columns, over query heads and real tokens."""
        assert self.store.attention is not None
        weights = weights * self._real[:, None, None, columns, None]
        mass = self.store.attention[layer, self.first : self.last, :, : self.width]
        mass += weights.detach().sum(dim=(2, 3))

    def mask(self, layer: int) -> Bool[Tensor, "B #H T L"]:
        """Which entries each column may see: those of its own past.

        Padding columns see the first slot, so that their softmax is over something; nothing reads
        what they compute.
        """
        if self._shared_mask is not None:
            return self._shared_mask
        heads = slice(0, 1) if self._uniform else slice(None)
        stored = self.store.positions[layer, self.first : self.last, heads, None, : self.width]
        mask = (stored >= 0) & (stored <= self.positions[:, None, :, None])
        mask[..., 0] |= ~self._real[:, None]
        if self._uniform:
            self._shared_mask = mask
        return mask


Forward = PromptForward | DecodeForward
"""What a forward pass under way is to the cache and to attention."""
