"""KV dropout: training hides older entries from attention, so that eviction does less harm.

A small model that was trained on whole contexts only breaks when any entry is evicted, even one it
does not need. Large models do not. KV dropout trains a small one for it: at random moments, and
down to a random budget, tokens or whole sentences are hidden from all later tokens. One copy stays
of each fact that will be looked up again. The hidden entries are chosen at random, so that no
eviction method has an advantage.
"""

import random

import numpy as np
from numpy.typing import NDArray

from skipkv.tiny.traces import Fact, Trace

NEVER = np.iinfo(np.int32).max
WHOLE_SHARE = 0.2
"""Share of the traces that lose nothing."""
_WINDOW = 8


def expiries(trace: Trace, stores: int, rng: random.Random) -> NDArray[np.int32]:
    """For each token the first position that no longer sees it, [stores, T].

    A store is one KV head of one layer. In half of the traces all stores lose the same tokens. In
    the others, some stores keep some of the lost tokens.
    """
    common = _common(trace, rng)
    expiry = np.repeat(common[None], stores, axis=0)
    if rng.random() < 0.5:
        chance = np.random.default_rng(rng.getrandbits(32))
        expiry[chance.random(expiry.shape) < rng.uniform(0, 0.6)] = NEVER
    return expiry


def _common(trace: Trace, rng: random.Random) -> NDArray[np.int32]:
    """For each token [T] the first position that no longer sees it."""
    length = len(trace.tokens)
    expiry = np.full(length, NEVER, dtype=np.int32)
    if rng.random() < WHOLE_SHARE:
        return expiry
    budget = int(rng.uniform(0.1, 0.7) * length)
    interval = rng.randint(8, 48)
    by_sentence = rng.random()
    sentence = _sentence_of(trace)
    last_need: dict[Fact, int] = {}
    for fact, position in trace.needs:
        last_need[fact] = position
    chance = np.random.default_rng(rng.getrandbits(32))
    # tokens of a sentence tend to be lost together
    fate = by_sentence * chance.random(sentence.max() + 1)[sentence]
    fate += (1 - by_sentence) * chance.random(length)
    for event in range(trace.prompt + rng.randrange(interval), length, interval):
        alive = expiry[:event] == NEVER
        excess = int(alive.sum()) - budget
        if excess <= 0:
            continue
        free = alive.copy()
        free[event - _WINDOW :] = False
        free[:1] = False  # attention's sink
        _spare(trace, event, alive, free, last_need, rng)
        candidates = np.flatnonzero(free)
        order = np.argsort(fate[candidates] + 0.3 * chance.random(candidates.size))
        expiry[candidates[order[:excess]]] = event
    return expiry


def _spare(
    trace: Trace,
    event: int,
    alive: NDArray[np.bool_],
    free: NDArray[np.bool_],
    last_need: dict[Fact, int],
    rng: random.Random,
) -> None:
    """Remove from `free` one visible copy of each fact still needed, and the current step."""
    living: dict[Fact, list[tuple[int, ...]]] = {}
    for fact, positions in trace.copies:
        if positions[-1] >= event:
            break  # copies are told in order
        if last_need.get(fact, -1) >= event and all(alive[p] for p in positions):
            living.setdefault(fact, []).append(positions)
    for copies in living.values():
        kept = copies[-1] if rng.random() < 0.5 else rng.choice(copies)
        free[list(kept)] = False
    steps = [s for s in trace.sentences if s[2] and s[0] < event]
    if steps:
        begin, end, _ = steps[-1]
        if rng.random() < 0.7:
            free[begin:end] = False
        else:
            free[[begin, min(end, event) - 2, min(end, event) - 1]] = False


def _sentence_of(trace: Trace) -> NDArray[np.int64]:
    """Each token's sentence [T]; the prompt's definitions count as sentences too."""
    sentence = np.zeros(len(trace.tokens), dtype=np.int64)
    number = 0
    for position in range(trace.prompt):
        sentence[position] = number
        number += trace.tokens[position] == "; "
    for begin, _, _ in trace.sentences:
        number += 1
        sentence[begin:] = number
    return sentence
