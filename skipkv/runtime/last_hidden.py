"""The last hidden states of what was decoded, kept until sentences are read."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from skipkv.runtime.decode import DecodeForward

# Steps whose states may wait to be written: one write of many costs little more than of one.
_WAITING = 16


class LastHidden:
    """The newest hidden states of every sequence: a ring by position, `[sequences, kept, E]`.

    Args:
        sequences: how many there are.
        kept: newest states to keep of each.
        hidden_size: of the model.
        device: where they lie.
    """

    def __init__(
        self, sequences: int, *, kept: int, hidden_size: int, device: torch.device | str
    ) -> None:
        self._ring = torch.zeros(sequences, kept, hidden_size, device=device)
        self._kept = kept
        self._waiting: list[Float[Tensor, "B E"]] = []
        self._forward: DecodeForward | None = None  # of the steps whose states wait

    def add(self, forward: DecodeForward, states: Float[Tensor, "B E"]) -> None:
        """Take the states of a decode step; they are written by and by, but for recorded steps."""
        if forward is not self._forward:
            self._write()
            self._forward = forward
        self._waiting.append(states)
        if forward.fixed or len(self._waiting) == min(_WAITING, self._kept):
            self._write()

    def newest(self, sequence: int, count: int, *, seen: int) -> Float[Tensor, "N E"]:
        """The last `count` states of a sequence.

        Args:
            sequence: its number.
            count: at most as many as are kept.
            seen: tokens it has seen.
        """
        self._write()
        return self._ring[sequence].roll(-((seen - count) % self._kept), 0)[:count]

    def put(self, targets: Sequence[int], sources: Sequence[int]) -> None:
        """Put what lies in the lanes `sources` into the lanes `targets`, all at once."""
        self._write()
        self._ring[targets] = self._ring[sources]

    def _write(self) -> None:
        """Write the states that wait."""
        if not self._waiting:
            return
        forward, self._forward = self._forward, None  # it holds views of the cache
        assert forward is not None
        count, kept = len(self._waiting), self._kept
        states = torch.stack(self._waiting, dim=1).float()  # [B steps E]
        self._waiting.clear()
        if forward.newest is not None:  # all rows write to the same places
            ring = self._ring[forward.first : forward.last]
            at = (forward.newest + 1 - count) % kept
            fit = min(count, kept - at)
            ring[:, at : at + fit] = states[:, :fit]
            ring[:, : count - fit] = states[:, fit:]
        else:
            ages = torch.arange(1 - count, 1, device=states.device)
            lanes = torch.arange(forward.first, forward.last, device=states.device)
            places = lanes[:, None] * kept + (forward.positions + ages) % kept  # [B steps]
            self._ring.view(-1, states.shape[-1]).index_copy_(
                0, places.flatten(), states.flatten(0, 1)
            )
