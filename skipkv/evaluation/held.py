"""How many entries a sequence really held."""

import math
from collections.abc import Iterable

from skipkv.runtime import Completion


def mean_entries_held(completion: Completion, heads: int) -> float:
    """Entries per KV head that a decode step attended to, averaged over layers, heads and steps.

    The budget as it was really used. Between events a head holds more than its budget, early in a
    trace it holds less, and a policy that drops more than it must holds less throughout; so this,
    and not the budget asked for, is what one pays for attention.

    A step that brings a sequence to `t` tokens attends to `t` entries less those evicted before.

    Args:
        completion: decoded with `trace=True`.
        heads: KV heads of all layers together, over which `evicted` is summed.
    """
    prompt = completion.prompt_tokens
    last = prompt + completion.stats.new_tokens - 1  # the last token decoded is never fed
    events = [(event.seen, event.evicted / heads) for event in completion.trace or ()]
    steps = last - prompt
    if steps < 1:
        return prompt - math.fsum(evicted for _, evicted in events)
    grown = sum(range(prompt + 1, last + 1))
    return (grown - _lasting(events, prompt, last)) / steps


def _lasting(events: Iterable[tuple[int, float]], prompt: int, last: int) -> float:
    """Entries evicted, each counted for every decode step it was missing from."""
    return math.fsum(evicted * (last - max(seen, prompt)) for seen, evicted in events)
