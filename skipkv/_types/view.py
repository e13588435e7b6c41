"""What scorers and evictors see of the cache."""

from collections.abc import Mapping, Sequence
from functools import cached_property

import attrs
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from skipkv._types.records import Record
from skipkv._types.rotation import Rotation
from skipkv._types.sentences import SentenceTable
from skipkv.errors import InputError

# Above every position: sequences so far apart share one axis and never meet on it.
_APART = 2**32


@attrs.frozen(kw_only=True, eq=False)
class CacheView:
    """`R` rows of the cache: each one sequence in one layer.

    Entries of a row and head fill its first slots in the order of their positions. The slots after
    them are empty and hold position -1. Heads of a row may hold different entries, and different
    numbers of them. Rows of many layers and sequences come in one view, so a part never loops.

    Args:
        keys: post-RoPE keys. An empty slot holds any finite numbers.
        values: values. An empty slot holds any finite numbers.
        positions: position of the entry in each slot; -1 in an empty one.
        protected: entries that must be kept: window, sinks and, where asked for, the prompt.
        seen: tokens each row's sequence has seen so far (not only those still cached).
        sequences: which sequence of `sentences` a row belongs to.
        layers: layer of the model that each row belongs to, from 0; 0 for every row by default.
        depth: layers of the model; by default as many as the highest of `layers` tells of.
        queries: the last `W` post-RoPE queries, oldest first; None unless a part needs them.
        softcap: where the model caps its scaled logits x, the c of c * tanh(x / c); else None.
        sinks: where the model has attention sinks, the logit of each query head's sink, which takes
            a share of the softmax and has no value; else None. Not the budget's sinks.
        attention: attention that each entry has received so far; None unless a part needs it.
        sentences: a table per sequence; None unless a part needs them.
        rotation: how positions turn keys; None unless a part needs it.
        records: numbers beside each entry, [R, H, L] each; empty unless a part needs some. Read
            them with `record`.
    """

    keys: Float[Tensor, "R H L D"]
    values: Float[Tensor, "R H L D"]
    positions: Int[Tensor, "R H L"]
    protected: Bool[Tensor, "R H L"]
    seen: Int[Tensor, "R"]
    sequences: Int[Tensor, "R"]
    layers: Int[Tensor, "R"] = attrs.field(
        default=attrs.Factory(lambda self: torch.zeros_like(self.sequences), takes_self=True)
    )
    depth: int = attrs.field(
        default=attrs.Factory(lambda self: 1 + int(self.layers.max()), takes_self=True)
    )
    queries: Float[Tensor, "R H G W D"] | None = None
    softcap: float | None = None
    sinks: Float[Tensor, "R H G"] | None = None
    attention: Float[Tensor, "R H L"] | None = None
    sentences: Sequence[SentenceTable] | None = None
    rotation: Rotation | None = None
    records: Mapping[Record, Float[Tensor, "R H L"]] = attrs.field(factory=dict)

    @property
    def occupied(self) -> Bool[Tensor, "R H L"]:
        """Slots that hold an entry."""
        return self.positions >= 0

    @property
    def unrotated_keys(self) -> Float[Tensor, "R H L D"]:
        """Keys as they were before RoPE turned them, in float32; zeros in empty slots.

        The same token at two positions has two keys after RoPE, and nearly one before. They are
        computed at every access, so read them once; the tensor is the reader's own.
        """
        if self.rotation is None:
            raise ValueError(
                "CacheView.rotation is None: a part that reads keys from before the rotation must "
                "declare needs = Needs(rotary=True)."
            )
        empty = ~self.occupied[..., None]
        keys = self.keys.float().masked_fill(empty, 0.0)
        return self.rotation.unrotated(keys, self.positions)

    def record(self, record: Record) -> Float[Tensor, "R H L"]:
        """The values of a record.

        Args:
            record: equal to one of those that the part declares.

        Raises:
            InputError: the view does not have it.
        """
        if record not in self.records:
            raise InputError(
                f"CacheView.records has no {record!r}. A part that reads it must declare "
                f"needs = Needs(records=({record!r},))."
            )
        return self.records[record]

    def within_window(self, window: int) -> Bool[Tensor, "R H L"]:
        """Entries of the `window` most recent tokens."""
        return self.occupied & (self.positions >= (self.seen - window)[:, None, None])

    @property
    def sentence_ids(self) -> Int[Tensor, "R H L"]:
        """Index, in its sequence's table, of each entry's closed sentence; -1 where it has none."""
        place, firsts = self._sentence_places
        ids = place - firsts[self.sequences, None, None]
        return ids.masked_fill(place == firsts[-1], -1)

    def per_entry(self, values: Sequence[Float[Tensor, "_"]]) -> Float[Tensor, "R H L"]:
        """Spread one value per closed sentence over the entries of that sentence; 0 elsewhere.

        Args:
            values: for every sequence of `sentences` a tensor with a value per closed sentence.
        """
        place, _ = self._sentence_places
        given, wanted = [len(v) for v in values], [len(table) for table in self.sentences or ()]
        if given != wanted:
            raise ValueError(
                f"CacheView.per_entry needs a value per closed sentence, {wanted} for its "
                f"sequences, got {given}."
            )
        zero = torch.zeros(1, device=place.device)  # for those without a closed sentence
        return torch.cat([*(v.float() for v in values), zero])[place]

    @cached_property
    def _sentence_places(self) -> tuple[Int[Tensor, "R H L"], Int[Tensor, "_"]]:
        """Each entry's place in the concatenation of all tables, and where each table begins in it.

        An entry without a closed sentence has the place after the last one. The beginnings end with
        that place too. One search serves all sequences, once per view.
        """
        if self.sentences is None:
            raise ValueError(
                "CacheView.sentences is None: a part that reads sentences must declare "
                "needs = Needs(sentences=True)."
            )
        counts = torch.tensor([0, *(len(table) for table in self.sentences)])
        firsts = counts.cumsum(dim=0).to(self.positions.device)
        ends = torch.cat([t.ends.long() + n * _APART for n, t in enumerate(self.sentences)])
        apart = self.positions + self.sequences.long()[:, None, None] * _APART
        place = torch.searchsorted(ends, apart, right=True)
        behind = place == firsts[self.sequences + 1, None, None]
        return place.masked_fill(behind | ~self.occupied, firsts[-1]), firsts
