"""How many entries a row holds at every decode step."""

from collections.abc import Iterator


def widths(prompt: int, steps: int, *, budget: int | None, interval: int) -> Iterator[int]:
    """Entries that each decode step attends to, its own token's among them.

    They are the engine's under a policy that keeps as many entries in every head as it may: the
    cache grows by one a step, and falls back to the budget where an event is due.

    Args:
        prompt: its length in tokens.
        steps: decode steps.
        budget: entries kept at an event; None keeps all.
        interval: steps between two events.

    Example:
        >>> list(widths(3, 6, budget=4, interval=2))
        [4, 5, 5, 6, 5, 6]
    """
    held = prompt if budget is None else min(prompt, budget)
    for seen in range(prompt + 1, prompt + 1 + steps):
        held += 1
        yield held
        if budget is not None and (seen - 1) % interval == 0:
            held = min(held, budget)


def most(prompt: int, steps: int, *, budget: int | None, interval: int) -> int:
    """Entries a row holds at most: what its share of the cache must have room for."""
    return max(widths(prompt, steps, budget=budget, interval=interval), default=prompt)
