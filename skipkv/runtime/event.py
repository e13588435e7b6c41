"""One compression event: view, scores, keep mask and compaction, some layers at a time."""

from collections.abc import Sequence

import attrs
import torch
from jaxtyping import Int
from torch import Tensor

from skipkv._types import CacheView, SentenceTable
from skipkv.errors import SkipKVError
from skipkv.policy import Policy
from skipkv.runtime.checked import decide
from skipkv.runtime.slots import SlotStore, span

# The most elements of keys in one view. It bounds an event's own memory, however deep the model is.
_VIEW_ELEMENTS = 2**21


@attrs.frozen(kw_only=True)
class Outcome:
    """What an event did to one sequence.

    Args:
        evicted: entries dropped, summed over layers and KV heads.
        kept: positions kept per layer and head, filled up with -1, on the CPU; None without a
            trace.
        error: why this sequence cannot go on: a part broke its protocol, or the model failed.
    """

    evicted: int = 0
    kept: Int[Tensor, "layers H K"] | None = attrs.field(default=None, repr=False)
    error: SkipKVError | None = None


def compress(
    store: SlotStore,
    policy: Policy,
    sequences: Sequence[int],
    *,
    prompts: Sequence[int],
    tables: Sequence[SentenceTable] | None,
    trace: bool = False,
) -> list[Outcome]:
    """Drop entries of sequences until each is within its budget.

    Args:
        store: the cache.
        policy: scorer, evictor and budget.
        sequences: the lanes of the sequences.
        prompts: their prompts' lengths, in tokens.
        tables: their sentences, if the policy needs them.
        trace: report which positions were kept.
    """
    assert policy.budget is not None
    outcomes: list[Outcome] = [Outcome()] * len(sequences)
    # A group shares one budget. Sequences differ in budget only under a ratio.
    allowed = [
        policy.budget.allowed(store.tokens_seen[s], prompt)
        for s, prompt in zip(sequences, prompts, strict=True)
    ]
    for budget in sorted(set(allowed)):
        group = [i for i, a in enumerate(allowed) if a == budget]
        done = _compress_group(
            store,
            policy,
            [sequences[i] for i in group],
            budget,
            prompts=[prompts[i] for i in group],
            tables=None if tables is None else [tables[i] for i in group],
            trace=trace,
        )
        for i, outcome in zip(group, done, strict=True):
            outcomes[i] = outcome
    return outcomes


def _compress_group(
    store: SlotStore,
    policy: Policy,
    sequences: list[int],
    budget: int,
    *,
    prompts: list[int],
    tables: list[SentenceTable] | None,
    trace: bool,
) -> list[Outcome]:
    count = len(sequences)
    width = max(store.widths[s] for s in sequences)
    before = store.dropped[:, span(sequences)].sum(dim=(0, 2))
    errors: list[SkipKVError | None] = [None] * count
    kept_positions: list[Int[Tensor, "l n H K"]] = []
    per_layer = count * store.shape.heads * width * store.shape.dim
    step = max(1, _VIEW_ELEMENTS // per_layer)
    for start in range(0, store.shape.layers, step):
        layers = slice(start, min(start + step, store.shape.layers))
        # the view has no name here, so that its memory is free before entries are moved
        keep, faults = decide(
            policy,
            _view(store, policy, layers, sequences, width, prompts=prompts, tables=tables),
            budget,
            count=count,
        )
        errors = [known or new for known, new in zip(errors, faults, strict=True)]
        if keep is None:  # without an answer, the sequences of this event cannot go on
            return [Outcome(error=error) for error in errors]
        _, positions = store.compact(layers, sequences, keep)
        if trace:
            kept_positions.append(positions.unflatten(0, (-1, count)).cpu())
    store.compacted(sequences)
    evicted = (store.dropped[:, span(sequences)].sum(dim=(0, 2)) - before).tolist()
    kept = _padded(kept_positions) if trace else None  # [layers n H K]
    return [
        Outcome(
            evicted=evicted[i],
            # K is the sequence's own width, not the widest of the batch
            kept=None if kept is None else kept[:, i, :, : store.widths[sequence]],
            error=errors[i],
        )
        for i, sequence in enumerate(sequences)
    ]


def _padded(chunks: list[Tensor]) -> Tensor:
    """Chunks of layers as one tensor; chunks with fewer entries are filled up with -1."""
    most = max(chunk.shape[-1] for chunk in chunks)
    return torch.cat(
        [torch.nn.functional.pad(c, (0, most - c.shape[-1]), value=-1) for c in chunks]
    )


def _view(
    store: SlotStore,
    policy: Policy,
    layers: slice,
    sequences: list[int],
    width: int,
    *,
    prompts: list[int],
    tables: list[SentenceTable] | None,
) -> CacheView:
    """The first `width` slots of these rows; row r is sequence r % n of layer r // n."""
    assert policy.budget is not None
    at = span(sequences)
    depth = layers.stop - layers.start
    device = store.keys.device
    seen = store.seen[at].repeat(depth)
    positions = store.positions(layers, sequences, width).flatten(0, 1)
    queries = store.recent_queries(layers, sequences)
    return CacheView(
        keys=store.keys[layers, at, :, :width].flatten(0, 1),
        values=store.values[layers, at, :, :width].flatten(0, 1),
        positions=positions,
        protected=policy.budget.protected(
            positions, seen, torch.tensor(prompts, device=device).repeat(depth)
        ),
        seen=seen,
        sequences=torch.arange(len(sequences), device=device).repeat(depth),
        queries=None if queries is None else queries.flatten(0, 1),
        attention=None
        if store.attention is None
        else store.attention[layers, at, :, :width].flatten(0, 1),
        sentences=tables,
    )
