"""One compression event: view, scores, keep mask and compaction, some layers at a time."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import attrs
import torch
from jaxtyping import Float
from torch import Tensor

from skipkv._types import SUM, CacheView, Record, Rotation, SentenceTable
from skipkv.errors import SkipKVError, UnsupportedModelError
from skipkv.policy import Policy
from skipkv.runtime.checked import Decision, decide, law_faults
from skipkv.runtime.slots import SlotStore, on_device, span

# The most elements of keys in one view. On a CPU they fit its caches. An accelerator launches every
# operation in the same time, however small it is, so a view there is as large as its memory allows,
# up to a size beyond which the launches no longer matter.
_CACHED = 2**21
_ENOUGH = 2**28
# Bytes that an event needs at most per element of keys: copies in float32, and entries being moved.
_BYTES = 20

Watch = Callable[[Sequence[int], CacheView, Float[Tensor, "R H L"]], None]
"""Sees the scores of a view of some lanes."""


@attrs.frozen(kw_only=True)
class Outcome:
    """What an event did to one sequence.

    Args:
        compacted: whether scorer and evictor answered, so that the cache is as they say.
        evicted: entries dropped, summed over layers and KV heads.
        error: why this sequence cannot go on: a part broke its protocol, or the model failed.
    """

    compacted: bool = True
    evicted: int = 0
    error: SkipKVError | None = None


def compress(
    store: SlotStore,
    policy: Policy,
    sequences: Sequence[int],
    *,
    prompts: Sequence[int],
    tables: Sequence[SentenceTable] | None,
    rotation: Rotation | None = None,
    watch: Watch | None = None,
    elements: int | None = None,
    check_last: bool | None = None,
) -> list[Outcome]:
    """Drop entries of sequences until each is within its budget.

    Layers are looked at in groups. On a CPU a group is decided, checked and moved before the next
    one, while it is in a cache. A check waits for the device, so on an accelerator all groups are
    decided, then all are checked at once, then all are moved.

    Args:
        store: the cache.
        policy: scorer, evictor and budget.
        sequences: the lanes of the sequences.
        prompts: their prompts' lengths, in tokens.
        tables: their sentences, if the policy needs them.
        rotation: how the model's positions turn keys, if the policy needs it.
        watch: gets the lanes, the view and the scores of each group of layers.
        elements: the most elements of keys in one group of layers; by default what suits the device
            and the memory that is free there. It changes no outcome.
        check_last: whether all groups are decided before any is checked; by default as said above.
    """
    assert policy.budget is not None
    device = store.keys.device
    elements = view_elements(device) if elements is None else elements
    check_last = device.type != "cpu" if check_last is None else check_last
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
            rotation=rotation,
            watch=watch,
            elements=elements,
            check_last=check_last,
        )
        for i, outcome in zip(group, done, strict=True):
            outcomes[i] = outcome
    return outcomes


def view_elements(device: torch.device) -> int:
    """The most elements of keys in one view on a device, from its kind and its free memory.

    Args:
        device: the device of the cache.
    """
    if device.type == "cpu":
        return _CACHED
    if device.type != "cuda":  # torch does not say how much memory is free
        return 8 * _CACHED
    cached = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    free = torch.cuda.mem_get_info(device)[0] + cached
    return max(_CACHED, min(_ENOUGH, free // (4 * _BYTES)))


def _compress_group(
    store: SlotStore,
    policy: Policy,
    sequences: list[int],
    budget: int,
    *,
    prompts: list[int],
    tables: list[SentenceTable] | None,
    rotation: Rotation | None,
    watch: Watch | None,
    elements: int,
    check_last: bool,
) -> list[Outcome]:
    count = len(sequences)
    width = max(store.widths[s] for s in sequences)
    before = store.dropped[:, span(sequences)].sum(dim=(0, 2))
    errors: list[SkipKVError | None] = [None] * count
    per_layer = count * store.shape.heads * width * store.shape.dim
    step = max(1, elements // per_layer)
    groups = [
        slice(start, min(start + step, store.shape.layers))
        for start in range(0, store.shape.layers, step)
    ]

    def view(layers: slice) -> CacheView:
        return _view(
            store,
            policy,
            layers,
            sequences,
            width,
            prompts=prompts,
            tables=tables,
            rotation=rotation,
        )

    for some in [groups] if check_last else [[group] for group in groups]:
        decisions: list[Decision] = []
        for layers in some:
            # the view has no name here, so that its memory is free before entries are moved
            decision = decide(
                policy,
                view(layers),
                budget,
                count=count,
                watch=None if watch is None else partial(watch, sequences),
            )
            if isinstance(decision, list):  # without an answer, these sequences cannot go on
                known = zip(errors, decision, strict=True)
                return [Outcome(compacted=False, error=old or new) for old, new in known]
            decisions.append(decision)
        held = torch.stack([decision.held for decision in decisions]).tolist()  # [groups n 4]
        for layers, laws in zip(some, held, strict=True):
            if not all(map(all, laws)):
                faults = law_faults(policy, view(layers), budget, laws)
                errors = [known or new for known, new in zip(errors, faults, strict=True)]
        for layers, decision, laws in zip(some, decisions, held, strict=True):
            # A mask that breaks a law keeps what it says, so that a trace shows it.
            lawful = all(map(all, laws))
            most = min(budget, width) if lawful else None
            store.remember(layers, sequences, decision.remembered)
            store.compact(layers, sequences, decision.keep, most=most)
    store.compacted(sequences)
    evicted = (store.dropped[:, span(sequences)].sum(dim=(0, 2)) - before).tolist()
    return [Outcome(evicted=e, error=error) for e, error in zip(evicted, errors, strict=True)]


def _view(
    store: SlotStore,
    policy: Policy,
    layers: slice,
    sequences: list[int],
    width: int,
    *,
    prompts: list[int],
    tables: list[SentenceTable] | None,
    rotation: Rotation | None,
) -> CacheView:
    """The first `width` slots of these rows; row r is sequence r % n of layer r // n."""
    assert policy.budget is not None
    at = span(sequences)
    depth = layers.stop - layers.start
    device = store.keys.device
    seen = store.seen[at].repeat(depth)
    positions = store.positions(layers, sequences, width).flatten(0, 1)
    queries = store.recent_queries(layers, sequences)

    def record(name: Record) -> Float[Tensor, "R H L"]:
        return store.records[name][layers, at, :, :width].flatten(0, 1)

    return CacheView(
        keys=store.keys[layers, at, :, :width].flatten(0, 1),
        values=store.values[layers, at, :, :width].flatten(0, 1),
        positions=positions,
        protected=policy.budget.protected(
            positions, seen, on_device(prompts, device).repeat(depth)
        ),
        seen=seen,
        sequences=torch.arange(len(sequences), device=device).repeat(depth),
        layers=on_device(store.shape.numbers[layers], device).repeat_interleave(len(sequences)),
        depth=store.shape.depth,
        queries=None if queries is None else queries.flatten(0, 1),
        **_softmax(store, layers, len(sequences)),
        attention=None if SUM not in store.records else record(SUM),
        records={name: record(name) for name in policy.needs.records},
        sentences=tables,
        rotation=rotation,
    )


def _softmax(store: SlotStore, layers: slice, count: int) -> dict[str, Any]:
    """What the model does to logits, for parts that compute attention again."""
    found = store.softmax[layers]
    if store.queries is None or all(softmax.plain for softmax in found):
        return {}
    caps = {softmax.softcap for softmax in found}
    sinks = [softmax.sinks for softmax in found if softmax.sinks is not None]
    if len(caps) > 1 or len(sinks) not in (0, len(found)):
        raise UnsupportedModelError(
            "The model's layers differ in soft-capping or in attention sinks, and the policy "
            "computes attention again from recent queries. Take a policy that does not."
        )
    heads, groups = store.shape.heads, store.shape.groups
    joined = torch.stack(sinks).float().detach() if sinks else None  # [l Q]
    return {
        "softcap": caps.pop(),
        "sinks": None
        if joined is None
        else joined.view(-1, heads, groups).repeat_interleave(count, dim=0),
    }
