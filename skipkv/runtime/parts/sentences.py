"""Sentence tables of sequences, built from their tokens and hidden states as they grow."""

import copy
from collections.abc import Sequence
from itertools import pairwise

import attrs
import torch
from jaxtyping import Float
from torch import Tensor

from skipkv._calls import without_frames
from skipkv._types import Cut, SentenceTable, TokenStream
from skipkv.errors import PartError
from skipkv.runtime.parts import checked
from skipkv.runtime.text.token_text import Unfinished
from skipkv.segmenters import Segmenter

# The hidden states of the open sentence's newest tokens are held one by one, because a segmenter
# may close a sentence some tokens late (Punkt waits for the next word). Older states are summed.
_HELD = 64


class SentenceTracker:
    """The sentence table of one sequence, extended as the sequence grows.

    For the open sentence it holds a running sum of hidden states and the newest few states. So
    memory grows with the number of closed sentences only, not with their tokens.
    """

    def __init__(
        self,
        segmenter: Segmenter,
        hidden_size: int,
        device: torch.device | str,
        *,
        prompt: int = 0,
    ) -> None:
        self.table = SentenceTable.empty(hidden_size, device=device, prompt=prompt)
        self.unfinished = Unfinished()
        """Where the text of its tokens stands; who gives it pieces keeps it up to date."""
        self._segmenter = segmenter
        self._ids: list[int] = []
        self._pieces: list[str] = []
        self._start = 0  # position of the open sentence's first token
        self._sum = torch.zeros(hidden_size, dtype=torch.float64, device=device)
        self._summed = 0  # tokens in the sum
        self._held = torch.zeros(0, hidden_size, dtype=torch.float64, device=device)

    def feed(self, ids: Sequence[int], pieces: Sequence[str], hidden: Float[Tensor, "N E"]) -> None:
        """Take the sequence's next `N` tokens.

        Args:
            ids: token ids.
            pieces: their text.
            hidden: last hidden states after the final norm, at these tokens.

        Raises:
            PartError: the segmenter raised, or its answer is not a sequence of cuts that increase
                and lie inside the stream.
        """
        (error,) = feed([self], [ids], [pieces], [hidden])
        if error is not None:
            raise error

    def copy(self, *, prompt: int | None = None) -> "SentenceTracker":
        """A tracker that goes on from here, independent of this one.

        Args:
            prompt: the length of its prompt, if that is another one.
        """
        twin = copy.copy(self)
        twin._ids, twin._pieces = [*self._ids], [*self._pieces]
        if prompt is not None:
            twin.table = attrs.evolve(self.table, prompt=prompt)
        return twin

    def lengthen_prompt(self, tokens: int) -> None:
        """Count `tokens` more tokens as prompt."""
        self.table = attrs.evolve(self.table, prompt=self.table.prompt + tokens)

    def _take(self, ids: Sequence[int], pieces: Sequence[str]) -> list[Cut]:
        """Take tokens; return the sentences they close, with ends relative to `_start`."""
        self._ids += ids
        self._pieces += pieces
        cuts = checked.cuts(self._segmenter, TokenStream(ids=self._ids, pieces=self._pieces))
        if cuts:
            del self._ids[: cuts[-1].end], self._pieces[: cuts[-1].end]
        return cuts

    def _lengths(self, cuts: Sequence[Cut], count: int) -> list[int]:
        """How many of the held and the `count` new tokens lie in each sentence.

        The open sentence comes last. Tokens in the running sum do not count.
        """
        ends = [max(cut.end - self._summed, 0) for cut in cuts]
        bounds = [0, *ends, len(self._held) + count]
        return [end - start for start, end in pairwise(bounds)]

    def _give_sum(self, cuts: Sequence[Cut], sums: Float[Tensor, "S E"]) -> None:
        """Add the running sum to the sentences that its tokens lie in.

        A cut before the held tokens takes its share of the sum. That is exact unless a segmenter
        closes a sentence more than _HELD tokens late.
        """
        given = 0.0
        for place, cut in enumerate(cuts):
            share = min(cut.end / self._summed, 1.0) if self._summed else 0.0
            if share > given:
                sums[place] += (share - given) * self._sum
                given = share
        if given:
            self._sum = (1 - given) * self._sum

    def _hold(self, end: int, newest: Float[Tensor, "N E"]) -> None:
        """Begin the open sentence at `end`, with the states of its newest tokens."""
        self._start += end
        self._summed = max(self._summed - end, 0)
        extra = len(newest) - _HELD
        if extra > 0:
            self._sum = self._sum + newest[:extra].sum(dim=0)
            self._summed += extra
            newest = newest[extra:]
        self._held = newest.clone()  # a copy, so that the tensor it is a view of can be freed


def feed(
    trackers: Sequence[SentenceTracker],
    ids: Sequence[Sequence[int]],
    pieces: Sequence[Sequence[str]],
    hidden: Sequence[Float[Tensor, "_ E"]],
    *,
    at_once: int = 2**21,
) -> list[PartError | None]:
    """Feed the next tokens of several sequences to their trackers, with shared tensor operations.

    Args:
        trackers: one per sequence.
        ids: token ids, per sequence.
        pieces: their text.
        hidden: last hidden states after the final norm, at these tokens.
        at_once: the most numbers summed at once. It bounds the memory of a call, whatever the
            batch.

    Returns:
        Per tracker, the error of its segmenter or None. Do not feed a tracker after its error.

    Raises:
        ValueError: a sequence has more or fewer tokens than states.
    """
    for new, states in zip(ids, hidden, strict=True):
        # With fewer states a sentence would have a negative length, and repeat_interleave writes
        # beyond its result before it refuses that.
        if len(new) != len(states):
            raise ValueError(f"{len(new)} tokens came with {len(states)} hidden states.")
    largest = max((_HELD + len(states)) * states.shape[1] for states in hidden)
    step = max(1, at_once // largest)
    errors: list[PartError | None] = []
    for start in range(0, len(trackers), step):
        some = slice(start, start + step)
        cuts: list[list[Cut]] = []
        for tracker, new, texts in zip(trackers[some], ids[some], pieces[some], strict=True):
            closed, error = [], None
            try:
                closed = tracker._take(new, texts)
            except PartError as caught:
                error = without_frames(caught)
            cuts.append(closed)
            errors.append(error)
        _close(trackers[some], cuts, hidden[some])
    return errors


def _close(
    trackers: Sequence[SentenceTracker],
    cuts: Sequence[Sequence[Cut]],
    hidden: Sequence[Float[Tensor, "_ E"]],
) -> None:
    """Close the sentences that each tracker's cuts end, with the states of the new tokens."""
    parts = list(zip(trackers, cuts, hidden, strict=True))
    rows = torch.cat([part for t, _, states in parts for part in (t._held, states)])  # float64
    # Every tracker has a place per closing sentence, and one for its open sentence.
    lengths = [tracker._lengths(closed, len(states)) for tracker, closed, states in parts]
    counts = torch.tensor([n for of_one in lengths for n in of_one], device=rows.device)
    places = torch.repeat_interleave(counts, output_size=len(rows))
    sums = rows.new_zeros(len(counts), rows.shape[1]).index_add_(0, places, rows)
    first = 0
    for (tracker, closed, _), of_one in zip(parts, lengths, strict=True):
        tracker._give_sum(closed, sums[first : first + len(closed)])
        first += len(of_one)
    embeddings = torch.nn.functional.normalize(sums, dim=-1).float()  # mean and sum give the same
    ends = [tracker._start + cut.end for tracker, closed, _ in parts for cut in closed]
    thoughts = [int(cut.thought) for closed in cuts for cut in closed]
    facts = torch.tensor([ends, thoughts], dtype=torch.long, device=rows.device)
    first = known = row = 0
    for (tracker, closed, _), of_one in zip(parts, lengths, strict=True):
        count = len(closed)
        if count:
            # outside inference mode torch counts writes to the new tensors: see `watched`
            with torch.inference_mode(False):
                tracker.table = tracker.table.extended(
                    facts[0, known : known + count],
                    embeddings[first : first + count],
                    facts[1, known : known + count],
                )
        first, known, row = first + len(of_one), known + count, row + sum(of_one)
        tracker._hold(closed[-1].end if closed else 0, rows[row - of_one[-1] : row])
