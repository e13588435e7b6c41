"""Layers with states in the place of entries: linear attention and convolutions.

Such a layer holds as much of a sequence after a million tokens as after one. So there is nothing to
evict: its states move with their sequence, and policies do not see them.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from skipkv.models.architecture import STATE_LAYER

_Layer: Any = STATE_LAYER or object
_KINDS = ("conv", "recurrent")
StateKey = tuple[int, str, int]
"""A state's layer of the model, its kind and its number."""


class StateStore:
    """The states of all layers that have some, a row per lane.

    A layer shows the shape of a state when it first makes it. The memory is allocated then.

    Args:
        sequences: lanes.
    """

    def __init__(self, sequences: int) -> None:
        self._sequences = sequences
        self._states: dict[StateKey, Tensor] = {}

    def get(self, layer: int, kind: str, number: int) -> Tensor | None:
        """A state of all lanes, `[S, ...]`; None before the layer has made it."""
        return self._states.get((layer, kind, number))

    def make(self, layer: int, kind: str, number: int, like: Tensor) -> Tensor:
        """Allocate a state: zeros.

        Args:
            layer: of the model.
            kind: "conv" or "recurrent".
            number: of the state, among those of the layer of this kind.
            like: the state of some lanes.
        """
        with torch.inference_mode(False):  # it outlives the context in which it is made
            state = torch.zeros(
                self._sequences, *like.shape[1:], dtype=like.dtype, device=like.device
            )
        self._states[layer, kind, number] = state
        return state

    @property
    def bytes(self) -> int:
        """Bytes allocated for states."""
        return sum(state.untyped_storage().nbytes() for state in self._states.values())

    @property
    def tensors(self) -> list[Tensor]:
        """All states; their axis 1 is the lane."""
        return [state[None] for state in self._states.values()]

    def save_lane(self, lane: int) -> dict[StateKey, Tensor]:
        """A copy of one lane's states, for `load_lane` of any store."""
        return {key: state[lane].clone() for key, state in self._states.items()}

    def load_lane(self, lane: int, saved: Mapping[StateKey, Tensor]) -> None:
        """Write saved states into a lane, and make those that no layer has made here yet."""
        for key, row in saved.items():
            state = self._states.get(key)
            if state is None:
                state = self.make(*key, row[None])
            state[lane] = row

    def save(self) -> list[Tensor]:
        """A copy of all states, for `load`."""
        return [state.clone() for state in self._states.values()]

    def load(self, saved: list[Tensor]) -> None:
        """Write saved states back; those that were made since become zero."""
        for number, state in enumerate(self._states.values()):
            if number < len(saved):
                state.copy_(saved[number])
            else:
                state.zero_()


class StateLayer(_Layer):  # type: ignore[misc]
    """A layer of transformers' cache whose states are rows of a `StateStore`.

    Zero states are those of a sequence without tokens, so a pass may have new sequences beside
    others. What it must not have is padding after a sequence's first tokens: padding changes a
    state. Nor may a sequence wait in a pass that feeds others.

    Args:
        layer: its number in the model.
        states: how many states of each kind the layer has.
    """

    def __init__(self, layer: int, states: int) -> None:
        super().__init__(number_of_states=states)
        self._layer = layer
        self._store: StateStore | None = None
        self._lanes = slice(0)

    def begin(self, store: StateStore, lanes: slice) -> None:
        """Begin a pass over these lanes."""
        self._store, self._lanes = store, lanes
        for number in range(self.number_of_states):
            made = [store.get(self._layer, kind, number) for kind in _KINDS]
            conv, recurrent = (None if state is None else state[lanes] for state in made)
            self.conv_states[number] = conv
            self.recurrent_states[number] = recurrent
            if conv is not None:  # a state that comes from another store has not told its size
                self.conv_kernel_size[number] = conv.shape[-1]
            self.is_conv_states_initialized[number] = conv is not None
            self.is_recurrent_states_initialized[number] = recurrent is not None
            self.has_previous_state[number] = conv is not None or recurrent is not None

    def lazy_initialization(
        self,
        conv_states: Tensor | None = None,
        recurrent_states: Tensor | None = None,
        state_idx: int = 0,
        **options: Any,
    ) -> None:
        """Allocate the states that a layer makes for the first time, for all lanes."""
        super().lazy_initialization(conv_states, recurrent_states, state_idx, **options)
        assert self._store is not None
        for kind, given, held in (
            ("conv", conv_states, self.conv_states),
            ("recurrent", recurrent_states, self.recurrent_states),
        ):
            if given is not None:
                made = self._store.make(self._layer, kind, state_idx, held[state_idx])
                held[state_idx] = made[self._lanes]

    def update_conv_state(self, conv_states: Tensor, *args: Any, **options: Any) -> Tensor:
        """Store what a convolution needs of the tokens before; returns all that it reads now."""
        found: Tensor = super().update_conv_state(conv_states.detach(), *args, **options)
        return found

    def update_recurrent_state(
        self, recurrent_states: Tensor, *args: Any, **options: Any
    ) -> Tensor:
        """Store a state."""
        found: Tensor = super().update_recurrent_state(recurrent_states.detach(), *args, **options)
        return found
