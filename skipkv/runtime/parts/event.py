"""One compression event: view, scores, keep mask and compaction, some layers at a time."""

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import attrs
import torch
from jaxtyping import Float
from torch import Tensor

from skipkv._types import SUM, CacheView, Rotation, SentenceTable
from skipkv.budget import Budget
from skipkv.errors import SkipKVError, UnsupportedModelError
from skipkv.evictors.protocol import mixes_layers, most_of
from skipkv.policy import Policy
from skipkv.runtime.parts.checked import Decision, decide, law_faults
from skipkv.runtime.store.slots import LayerGroup, on_device, span
from skipkv.runtime.store.store import SlotStore

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
    store.settle()
    elements = view_elements(store.device) if elements is None else elements
    check_last = store.device.type != "cpu" if check_last is None else check_last
    before = store.dropped[span(sequences)]
    errors: list[SkipKVError | None] = [None] * len(sequences)
    compacted = [True] * len(sequences)
    for group, own in budgets_of(policy.budget, store):
        # A view has one budget. Sequences differ in theirs only under a ratio.
        allowed = [
            own.allowed(store.tokens_seen[s], prompt)
            for s, prompt in zip(sequences, prompts, strict=True)
        ]
        for budget in sorted(set(allowed)):
            some = [i for i, a in enumerate(allowed) if a == budget and errors[i] is None]
            if not some:
                continue
            event = _Event(
                group=group,
                policy=policy,
                lanes=[sequences[i] for i in some],
                budget=budget,
                prompts=[prompts[i] for i in some],
                tables=None if tables is None else [tables[i] for i in some],
                rotation=rotation,
                watch=watch,
            )
            answered, found = event.run(elements=elements, check_last=check_last)
            for i, error in zip(some, found, strict=True):
                errors[i], compacted[i] = error, compacted[i] and answered
    store.compacted(sequences)
    evicted = (store.dropped[span(sequences)] - before).tolist()
    return [
        Outcome(compacted=c, evicted=e, error=error)
        for c, e, error in zip(compacted, evicted, errors, strict=True)
    ]


def budgets_of(budget: Budget, store: SlotStore) -> Iterator[tuple[LayerGroup, Budget]]:
    """The groups of layers of a store, each with the budget of its layers."""
    budgets = budget.of_layers(store.shape.layers)
    for group in store.groups:
        if group.layers:
            yield group, budgets[group.layers[0]]


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


@attrs.frozen(kw_only=True, eq=False)
class _Event:
    """What happens to sequences of one budget in layers of one group.

    Args:
        group: the layers' entries.
        policy: scorer, evictor, and what is protected.
        lanes: the lanes of the sequences.
        budget: entries that a head may keep; on average, where heads share their budgets.
        prompts: the sequences' prompts' lengths, in tokens.
        tables: their sentences, if the policy needs them.
        rotation: how the model's positions turn keys, if the policy needs it.
        watch: gets the lanes, the view and the scores.
    """

    group: LayerGroup
    policy: Policy
    lanes: list[int]
    budget: int
    prompts: list[int]
    tables: list[SentenceTable] | None
    rotation: Rotation | None
    watch: Watch | None

    @property
    def width(self) -> int:
        """The most entries of a head."""
        return max(self.group.widths[lane] for lane in self.lanes)

    def run(self, *, elements: int, check_last: bool) -> tuple[bool, Sequence[SkipKVError | None]]:
        """Drop entries until each sequence is within the budget.

        Args:
            elements: the most elements of keys in one view.
            check_last: whether all views are decided before any is checked.

        Returns:
            Whether scorer and evictor answered for all layers, and each sequence's error.
        """
        group, count, width = self.group, len(self.lanes), self.width
        step = max(1, elements // (count * group.shape.heads * width * group.shape.dim))
        depth = group.shape.layers
        if mixes_layers(self.policy.evictor):
            step = depth
        views = [slice(start, min(start + step, depth)) for start in range(0, depth, step)]
        errors: list[SkipKVError | None] = [None] * count
        for some in [views] if check_last else [[view] for view in views]:
            decisions: list[Decision] = []
            for layers in some:
                # the view has no name here, so that its memory is free before entries are moved
                decision = decide(
                    self.policy,
                    self.view(layers, width),
                    self.budget,
                    count=count,
                    watch=None if self.watch is None else partial(self.watch, self.lanes),
                )
                if isinstance(decision, list):  # without an answer, these sequences cannot go on
                    known = zip(errors, decision, strict=True)
                    return False, [old or new for old, new in known]
                decisions.append(decision)
            held = torch.stack([decision.held for decision in decisions]).tolist()  # [views n 5]
            for layers, laws in zip(some, held, strict=True):
                if not all(map(all, laws)):
                    faults = law_faults(self.policy, self.view(layers, width), self.budget, laws)
                    errors = [known or new for known, new in zip(errors, faults, strict=True)]
            for layers, decision, laws in zip(some, decisions, held, strict=True):
                # A mask that breaks a law keeps what it says, so that a trace shows it.
                lawful = all(map(all, laws))
                most = min(most_of(self.policy.evictor, self.budget), width) if lawful else None
                group.remember(layers, self.lanes, decision.remembered)
                group.compact(layers, self.lanes, decision.keep, most=most)
        return True, errors

    def view(self, layers: slice, width: int) -> CacheView:
        """The first `width` slots of some layers; row r is sequence r % n of layer r // n."""
        budget, group, lanes = self.policy.budget, self.group, self.lanes
        assert budget is not None
        at, device = span(lanes), group.keys.device
        depth = layers.stop - layers.start
        seen = group.seen[at].repeat(depth)
        positions = group.positions(layers, lanes, width).flatten(0, 1)
        queries = group.recent_queries(layers, lanes)
        prompts = on_device(self.prompts, device).repeat(depth)

        records = {
            record: group.records[record][layers, at, :, :width].flatten(0, 1)
            for record in group.records
        }
        numbers = on_device(group.shape.numbers[layers], device)
        return CacheView(
            keys=group.keys[layers, at, :, :width].flatten(0, 1),
            values=group.values[layers, at, :, :width].flatten(0, 1),
            positions=positions,
            protected=budget.protected(positions, seen, prompts),
            seen=seen,
            sequences=torch.arange(len(lanes), device=device).repeat(depth),
            layers=numbers.repeat_interleave(len(lanes)),
            depth=group.shape.depth,
            queries=None if queries is None else queries.flatten(0, 1),
            **_softmax(group, layers, len(lanes)),
            attention=records.get(SUM),
            records={record: records[record] for record in group.needs.records},
            sentences=self.tables,
            rotation=self.rotation,
        )


def _softmax(group: LayerGroup, layers: slice, count: int) -> dict[str, Any]:
    """What the model does to logits, for parts that compute attention again."""
    found = group.softmax[layers]
    if not group.needs.queries or all(softmax.plain for softmax in found):
        return {}
    caps = {softmax.softcap for softmax in found}
    sinks = [softmax.sinks for softmax in found if softmax.sinks is not None]
    if len(caps) > 1 or len(sinks) not in (0, len(found)):
        raise UnsupportedModelError(
            "The model's layers differ in soft-capping or in attention sinks, and the policy "
            "computes attention again from recent queries. Take a policy that does not."
        )
    heads, groups = group.shape.heads, group.shape.groups
    joined = torch.stack(sinks).float().detach() if sinks else None  # [l Q]
    return {
        "softcap": caps.pop(),
        "sinks": None
        if joined is None
        else joined.view(-1, heads, groups).repeat_interleave(count, dim=0),
    }
