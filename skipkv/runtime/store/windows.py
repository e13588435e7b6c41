"""Layers with a sliding window: what they store, and what they do in a forward pass.

Such a layer attends to the last `window` tokens only. So its entries are bounded already: policies
do not see them, and no event changes them.
"""

from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from skipkv.runtime.store.softmax import PLAIN, Softmax


class WindowStore:
    """Keys and values of the layers with a window, `[layers, S, H, capacity, D]`.

    The token of position p has slot `p % window`, where it replaces the token that has just left
    the window. All heads of a sequence hold the same positions.

    Args:
        layers: how many layers have a window.
        heads: KV heads of a layer.
        dim: head size.
        window: tokens that a token attends to, itself included.
        sequences: lanes.
        longest: tokens that a sequence can come to; None where it is unknown. Memory is for the
            window or for these, whichever is less.
        dtype: of keys and values.
        device: of keys and values.
    """

    def __init__(
        self,
        *,
        layers: int,
        heads: int,
        dim: int,
        window: int,
        sequences: int,
        longest: int | None = None,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
    ) -> None:
        self.window = window
        capacity = window if longest is None else min(window, longest)
        shape = layers, sequences, heads, capacity, dim
        self.keys = torch.zeros(shape, dtype=dtype, device=device)
        self.values = torch.zeros(shape, dtype=dtype, device=device)

    @property
    def capacity(self) -> int:
        """Slots of each head."""
        return self.keys.shape[3]

    @property
    def bytes(self) -> int:
        """Bytes allocated for keys and values."""
        return self.keys.untyped_storage().nbytes() + self.values.untyped_storage().nbytes()

    @property
    def tensors(self) -> list[Tensor]:
        """All tensors with data of sequences; their axis 1 is the lane."""
        return [self.keys, self.values]


class WindowPrompts:
    """What the layers with a window do in a pass over prompts: see `PromptForward`.

    A column sees those columns and those stored entries that lie within its window.

    Args:
        store: the entries before the pass.
        first: the first lane.
        seen: tokens of each row before the pass.
        place: the number of each column among its row's new tokens; negative in padding.
    """

    def __init__(
        self, store: WindowStore, *, first: int, seen: Sequence[int], place: Int[Tensor, "B T"]
    ) -> None:
        self.store = store
        window, device = store.window, place.device
        self._lanes = slice(first, first + len(seen))
        self._held = min(max(seen), store.capacity)  # slots in use before the pass
        before = torch.tensor(seen, device=device)[:, None]  # [B 1]
        positions = before + place  # [B T]
        slots = torch.arange(self._held, device=device)
        # The newest position before the pass that has this slot; negative where there is none.
        stored = before - 1 - (before - 1 - slots) % window  # [B L]
        sees_stored = (stored[:, None] > positions[..., None] - window) & (stored >= 0)[:, None]
        real = place >= 0
        apart = place[:, :, None] - place[:, None]  # [B T T]
        # padding sees itself, so that its softmax is defined; its result is unused
        own = torch.eye(place.shape[1], dtype=torch.bool, device=device)
        sees_new = (real[:, None] & (apart >= 0) & (apart < window)) | own
        self._mask: Bool[Tensor, "B 1 T M"] = torch.cat([sees_stored, sees_new], dim=-1)[:, None]
        # What the window of the next token can reach is stored. Elsewhere a slot would be written
        # twice.
        self._rows, self._columns = (real & (place > place[:, -1:] - window)).nonzero(as_tuple=True)
        self._slots = positions[self._rows, self._columns] % window

    def write(
        self, layer: int, keys: Float[Tensor, "B H T D"], values: Float[Tensor, "B H T D"]
    ) -> tuple[Float[Tensor, "B H M D"], Float[Tensor, "B H M D"]]:
        """Store new keys and values; returns those that were stored before, then the new ones."""
        seen = []
        for stored, new in ((self.store.keys, keys), (self.store.values, values)):
            rows = stored[layer, self._lanes]
            seen.append(torch.cat([rows[:, :, : self._held], new], dim=2))
            rows[self._rows, :, self._slots] = new.detach()[self._rows, :, self._columns]
        return seen[0], seen[1]

    def mask(self, layer: int) -> Bool[Tensor, "B 1 T M"]:
        """What each column may see of what `write` returns; the same in all layers."""
        return self._mask


class WindowSteps:
    """What the layers with a window do in decode steps: see `DecodeForward`.

    Args:
        store: the cache of these layers.
        first: the first lane.
        last: the lane after the last.
        fixed: whether every step runs the same operations, over the whole capacity.
    """

    def __init__(self, store: WindowStore, *, first: int, last: int, fixed: bool) -> None:
        self.store = store
        self._lanes = slice(first, last)
        self._numbers = torch.arange(last - first, device=store.keys.device)
        self._fixed = fixed
        self._width = store.capacity
        self._newest: int | None = None  # the slot of all lanes, if the host knows it
        self._slots: Int[Tensor, "B"] | None = None
        self._bias: Float[Tensor, "B 1 1 L"] | None = None

    def place(self, positions: Int[Tensor, "B 1"], seen: Sequence[int]) -> None:
        """Prepare a step.

        Args:
            positions: of the tokens that are fed.
            seen: tokens of each lane, these included. Not read where steps are fixed.
        """
        store, free = self.store, True
        self._newest = self._slots = self._bias = None
        if not self._fixed:
            held = [min(tokens, store.capacity) for tokens in seen]
            self._width, free = max(held), min(held) < max(held)
            if len(set(seen)) == 1:
                self._newest = (seen[0] - 1) % store.window
        if self._newest is None:
            self._slots = positions[:, 0] % store.window
        if free:
            slots = torch.arange(self._width, device=positions.device)
            bias = store.keys.new_zeros(len(positions), self._width)
            self._bias = bias.masked_fill_(slots > positions, -torch.inf)[:, None, None]

    def write(
        self, layer: int, keys: Float[Tensor, "B H 1 D"], values: Float[Tensor, "B H 1 D"]
    ) -> tuple[Float[Tensor, "B H L D"], Float[Tensor, "B H L D"]]:
        """Store new keys and values; returns all that the rows hold, as views."""
        seen = []
        for stored, new in ((self.store.keys, keys), (self.store.values, values)):
            rows = stored[layer, self._lanes]
            if self._newest is not None:
                rows.narrow(2, self._newest, 1).copy_(new)
            else:
                rows[self._numbers, :, self._slots] = new[:, :, 0]
            seen.append(rows.narrow(2, 0, self._width))
        return seen[0], seen[1]

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
        if not softmax.plain:
            return softmax.attend(query, key, value, self._bias, scale)[0]
        fused: Tensor = torch.nn.functional.scaled_dot_product_attention(
            query, key, value, attn_mask=self._bias, scale=scale
        )
        return fused
