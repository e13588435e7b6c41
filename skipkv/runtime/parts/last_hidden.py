"""The last hidden states of decoded tokens, kept until the sentences are read."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from skipkv.runtime.store.decode import DecodeForward


class LastHidden:
    """The newest hidden states of every sequence: a ring by position, `[sequences, kept, E]`.

    Args:
        sequences: number of sequences.
        kept: number of newest states to keep per sequence.
        hidden_size: hidden size of the model.
        device: device of the ring.
        waiting: steps written to the ring together: one write for many steps costs little more
            than for one.
    """

    def __init__(
        self,
        sequences: int,
        *,
        kept: int,
        hidden_size: int,
        device: torch.device | str,
        waiting: int = 16,
    ) -> None:
        self._ring = torch.zeros(sequences, kept, hidden_size, device=device)
        self._kept = kept
        self._most = min(waiting, kept)  # steps that may wait
        self._waiting: list[Float[Tensor, "B E"]] = []
        self._forward: DecodeForward | None = None  # the forward of the waiting states' steps

    def add(self, forward: DecodeForward, states: Float[Tensor, "B E"]) -> None:
        """Take the states of a decode step; they are written later, in recorded steps at once."""
        if forward is not self._forward:
            self._write()
            self._forward = forward
        self._waiting.append(states)
        if forward.fixed or len(self._waiting) == self._most:
            self._write()

    def newest(self, sequence: int, count: int, *, seen: int) -> Float[Tensor, "N E"]:
        """The last `count` states of a sequence.

        Args:
            sequence: the lane of the sequence.
            count: number of states, at most as many as are kept.
            seen: tokens the sequence has seen.
        """
        self._write()
        return self._ring[sequence].roll(-((seen - count) % self._kept), 0)[:count]

    def put(self, targets: Sequence[int], sources: Sequence[int]) -> None:
        """Copy the lanes `sources` to the lanes `targets`; all are read before any is written."""
        self._write()
        self._ring[targets] = self._ring[sources]

    def _write(self) -> None:
        """Write the waiting states to the ring."""
        if not self._waiting:
            return
        forward, self._forward = self._forward, None  # it holds views of the cache
        assert forward is not None
        count, kept = len(self._waiting), self._kept
        states = torch.stack(self._waiting, dim=1).float()  # [B steps E]
        self._waiting.clear()
        if forward.newest is not None:  # all rows write to the same slots of the ring
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
