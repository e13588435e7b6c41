"""Tells observers of compression events, one for each sequence in it."""

from collections import abc
from collections.abc import Mapping
from functools import partial

import attrs
from jaxtyping import Int
from torch import Tensor

from skipkv.runtime.parts.event import Outcome
from skipkv.runtime.requests.sequence import Sequence
from skipkv.runtime.results.observers import (
    ObservedEvent,
    Observers,
    Once,
    ScoreLog,
    SequenceEvent,
)
from skipkv.runtime.store.store import SlotStore


def tell_events(
    observers: Observers,
    store: SlotStore,
    sequences: abc.Sequence[Sequence],
    held: abc.Sequence[int],
    outcomes: Mapping[Sequence, Outcome],
    log: ScoreLog | None,
) -> None:
    """Tell observers of an event, while the cache is as it left it.

    Args:
        observers: who is told.
        store: the cache.
        sequences: those that were due.
        held: the most entries that a head of each held before.
        outcomes: of those that were over their budget.
        log: the scores, where they are observed.
    """
    events = []
    for sequence, entries in zip(sequences, held, strict=True):
        lane, outcome = sequence.lane, outcomes.get(sequence)
        event = SequenceEvent(
            index=sequence.index,
            sample=sequence.sample,
            request=sequence.asked,
            prompt_tokens=sequence.prompt_tokens,
            seen=store.tokens_seen[lane],
            compressed=outcome is not None and outcome.compacted,
            entries=entries,
            evicted=0 if outcome is None else outcome.evicted,
            error=sequence.error,
            sentences=None if sequence.tracker is None else sequence.tracker.table,
            kept=Once("SequenceEvent.kept", partial(_kept, store, lane)),
            scores=None if log is None else log.of(lane),
        )
        events.append(event)
        if sequence.shared is not None:
            sequence.shared.append(event)
    first = sequences[0]
    in_prompt = store.tokens_seen[first.lane] <= first.prompt_tokens
    observers.tell("on_event", ObservedEvent(sequences=tuple(events), prompt=in_prompt))
    for event in events:
        event.close()


def _kept(store: SlotStore, lane: int) -> Int[Tensor, "layers H K"]:
    """Positions that a lane holds, filled up with -1, on the CPU."""
    return store.positions(lane).int().cpu()


def tell_shared(observers: Observers | None, sequence: Sequence) -> None:
    """Tell observers, for this sequence too, of the events that it shares with another.

    Args:
        observers: who is told.
        sequence: one that began with what another one had been fed.
    """
    if observers is None:
        return
    for event in sequence.shared or ():
        own = attrs.evolve(
            event,
            index=sequence.index,
            sample=sequence.sample,
            request=sequence.asked,
            prompt_tokens=sequence.prompt_tokens,
        )
        observers.tell("on_event", ObservedEvent(sequences=(own,), prompt=True))
