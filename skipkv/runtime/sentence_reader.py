"""Reads the sentences of a session's sequences, from their tokens and last hidden states."""

from collections import abc
from collections.abc import Mapping
from typing import Any, cast

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformers import PreTrainedModel

from skipkv.errors import UnsupportedModelError
from skipkv.models.architecture import text_config
from skipkv.policy import Policy
from skipkv.runtime.parts.last_hidden import LastHidden
from skipkv.runtime.parts.sentences import SentenceTracker, feed
from skipkv.runtime.requests.sequence import Sequence
from skipkv.runtime.seam.cache import SlotCache, under_way
from skipkv.runtime.store.decode import DecodeForward
from skipkv.runtime.store.forward import Forward, PromptForward
from skipkv.runtime.store.store import SlotStore
from skipkv.runtime.text.token_text import TokenText


class SentenceReader:
    """Keeps the last hidden states of every pass, and gives them to the sequences' trackers.

    A prompt is read as it is fed, what is decoded at events.

    Args:
        model: the model.
        policy: its segmenter cuts the sentences.
        store: knows the lanes, and how many tokens each has seen.
        cache: of the passes whose states are kept.
        text: of tokens.
        kept: decoded states to keep per sequence, at least the steps between two events.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        policy: Policy,
        store: SlotStore,
        cache: SlotCache,
        *,
        text: TokenText,
        kept: int,
    ) -> None:
        self._model = model
        self._segmenter = policy.segmenter
        self._store = store
        self._cache = cache
        self._text = text
        self._width = text_config(model).hidden_size
        self.decoded = LastHidden(
            store.sequences, kept=kept, hidden_size=self._width, device=store.device
        )
        """Of the decode steps since a sequence was last read."""
        self._newest: Float[Tensor, "B T E"] | None = None  # of the pass under way

    def hook(self, module: torch.nn.Module, args: Any, output: Any) -> None:
        """The forward hook of the model inside its language model's head.

        Args:
            module: unused.
            args: unused.
            output: has the last hidden states.
        """
        if under_way() is self._cache:
            self._newest = output.last_hidden_state.detach()

    def tracker(self, prompt: int) -> SentenceTracker:
        """A tracker for a sequence that begins.

        Args:
            prompt: tokens of its prompt.
        """
        return SentenceTracker(self._segmenter, self._width, self._store.device, prompt=prompt)

    def end(
        self, forward: Forward, ids: Int[Tensor, "B T"], sequences: abc.Sequence[Sequence]
    ) -> None:
        """End a pass: keep the states of a decode step, read those of a prompt.

        Args:
            forward: the pass.
            ids: the tokens it fed.
            sequences: whose they are, row by row.

        Raises:
            UnsupportedModelError: the hook has not seen the states of these tokens.
        """
        states, self._newest = self._newest, None
        if states is None or states.shape[:2] != ids.shape:
            came = "none" if states is None else f"states {list(states.shape)}"
            raise UnsupportedModelError(
                f"The policy reads last hidden states. For tokens {list(ids.shape)} the model's "
                f"{type(self._model.base_model).__name__} showed its hooks {came}: the model's own "
                "code calls its parts in another way than transformers' models do."
            )
        if isinstance(forward, DecodeForward):
            self.decoded.add(forward, states[:, 0])
        else:
            self._read_prompts(forward, ids, states, sequences)

    def _read_prompts(
        self,
        forward: PromptForward,
        ids: Int[Tensor, "B T"],
        states: Float[Tensor, "B T E"],
        sequences: abc.Sequence[Sequence],
    ) -> None:
        """Give the trackers a chunk of prompt at once; it is on the host anyway."""
        stretches = {}
        for row, sequence in enumerate(sequences):
            if count := forward.counts[row]:
                start = forward.columns - count
                stretches[sequence] = ids[row, start:].tolist(), states[row, start:]
        self._feed(stretches)

    def read(self, sequences: abc.Sequence[Sequence]) -> None:
        """Give the trackers what was decoded since they were last fed.

        Args:
            sequences: one whose segmenter breaks has an `error` then.
        """
        stretches = {}
        for sequence in sequences:
            if unread := sequence.unread:
                lane, seen = sequence.lane, self._store.tokens_seen[sequence.lane]
                stretches[sequence] = unread, self.decoded.newest(lane, len(unread), seen=seen)
                sequence.unread = []
        self._feed(stretches)

    def _feed(self, stretches: Mapping[Sequence, tuple[list[int], Float[Tensor, "_ E"]]]) -> None:
        """Give sequences' trackers tokens and their hidden states."""
        sequences = [sequence for sequence in stretches if sequence.error is None]
        if not sequences:
            return
        trackers = [cast(SentenceTracker, sequence.tracker) for sequence in sequences]
        tokens, hidden = zip(*(stretches[sequence] for sequence in sequences), strict=True)
        pieces = []
        for tracker, some in zip(trackers, tokens, strict=True):
            found, tracker.unfinished = self._text.following(tracker.unfinished, some)
            pieces.append(found)
        errors = feed(trackers, tokens, pieces, hidden)
        for sequence, error in zip(sequences, errors, strict=True):
            sequence.error = error
