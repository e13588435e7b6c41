"""What scorers and evictors see of the cache."""

from collections.abc import Sequence

import attrs
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from skipkv._types.sentences import SentenceTable


@attrs.frozen(kw_only=True, eq=False)
class CacheView:
    """`R` rows of the cache: each one sequence in one layer.

    Entries of a row and head fill its first slots in the order of their positions; the slots behind
    are empty and hold position -1. Heads of a row may hold different entries, and differently many.
    Rows of many layers and sequences come in one view, so a part never loops over them.

    Args:
        keys: post-RoPE keys; what an empty slot holds is unspecified but finite.
        values: values, likewise.
        positions: position of the entry in each slot; -1 in an empty one.
        protected: entries that must be kept: window, sinks and, where asked for, the prompt.
        seen: tokens each row's sequence has seen so far (not only those still cached).
        sequences: which sequence of `sentences` a row belongs to.
        queries: the last `W` post-RoPE queries, oldest first, where some part needs them.
        attention: attention received by each entry so far, where some part needs it.
        sentences: a table per sequence, where some part needs them.
    """

    keys: Float[Tensor, "R H L D"]
    values: Float[Tensor, "R H L D"]
    positions: Int[Tensor, "R H L"]
    protected: Bool[Tensor, "R H L"]
    seen: Int[Tensor, "R"]
    sequences: Int[Tensor, "R"]
    queries: Float[Tensor, "R H G W D"] | None = None
    attention: Float[Tensor, "R H L"] | None = None
    sentences: Sequence[SentenceTable] | None = None

    @property
    def occupied(self) -> Bool[Tensor, "R H L"]:
        """Slots that hold an entry."""
        return self.positions >= 0

    def within_window(self, window: int) -> Bool[Tensor, "R H L"]:
        """Entries of the `window` most recent tokens."""
        return self.occupied & (self.positions >= (self.seen - window)[:, None, None])

    @property
    def sentence_ids(self) -> Int[Tensor, "R H L"]:
        """Index, in its sequence's table, of each entry's closed sentence; -1 where it has none."""
        ids = torch.full_like(self.positions, -1)
        for rows, table in self._rows_by_sequence():
            ids[rows] = table.sentence_of(self.positions[rows])
        return ids

    def per_entry(self, values: Sequence[Float[Tensor, "_"]]) -> Float[Tensor, "R H L"]:
        """Spread one value per closed sentence over the entries of that sentence; 0 elsewhere.

        Args:
            values: for every sequence of `sentences` a tensor with a value per closed sentence.
        """
        ids = self.sentence_ids
        spread = torch.zeros(ids.shape, device=ids.device)
        for index, (rows, _) in enumerate(self._rows_by_sequence()):
            # index -1 (no closed sentence) reads the zero appended here
            spread[rows] = torch.nn.functional.pad(values[index].float(), (0, 1))[ids[rows]]
        return spread

    def _rows_by_sequence(self) -> list[tuple[Int[Tensor, "_"], SentenceTable]]:
        if self.sentences is None:
            raise ValueError(
                "CacheView.sentences is None: a part that reads sentences must declare "
                "needs = Needs(sentences=True)."
            )
        return [
            ((self.sequences == index).nonzero()[:, 0], table)
            for index, table in enumerate(self.sentences)
        ]
