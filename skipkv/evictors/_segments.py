"""Entries grouped by sentence within each row and head."""

import attrs
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn.functional import pad

from skipkv._types import CacheView


@attrs.frozen(kw_only=True, eq=False)
class Segments:
    """Runs of neighbouring entries of one sentence; a row and head has at most one per slot.

    Entries lie in the order of their positions, so a sentence is one run. Runs are numbered instead
    of sentences: tensors are then as long as the cache, and do not grow with the stream.

    Args:
        ids: index of the run of each slot, from 0 in each row and head.
        closed: entries of closed sentences. The other slots belong to the open sentence or are
            empty.
    """

    ids: Int[Tensor, "R H L"]
    closed: Bool[Tensor, "R H L"]

    @classmethod
    def of(cls, view: CacheView) -> "Segments":
        """The sentences of a view, as runs of slots."""
        sentences = view.sentence_ids
        starts = sentences[..., 1:] != sentences[..., :-1]
        return cls(ids=pad(starts.cumsum(dim=-1), (1, 0)), closed=sentences >= 0)

    def count(self, entries: Bool[Tensor, "R H L"]) -> Int[Tensor, "R H L"]:
        """How many of `entries` lie in each run."""
        return torch.zeros_like(self.ids).scatter_add_(-1, self.ids, entries.long())

    def mean(
        self, scores: Float[Tensor, "R H L"], entries: Bool[Tensor, "R H L"]
    ) -> Float[Tensor, "R H L"]:
        """Mean score of `entries` in each run; 0 where it has none.

        Sums are in float64 and are rounded to float32. So the order of the additions, which an
        accelerator does not fix, does not change the result.
        """
        values = scores.double().masked_fill(~entries, 0.0)
        total = torch.zeros_like(values).scatter_add_(-1, self.ids, values)
        return (total / self.count(entries).clamp_min(1)).float()

    def spread(self, values: Bool[Tensor, "R H L"]) -> Bool[Tensor, "R H L"]:
        """A value per run, given to each of its slots."""
        return values.gather(-1, self.ids)
