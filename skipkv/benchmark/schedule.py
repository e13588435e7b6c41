"""The number of entries that a row holds at every decode step."""

from collections.abc import Iterator


def widths(prompt: int, steps: int, *, budget: int | None, interval: int) -> Iterator[int]:
    """The number of entries each decode step attends to, with that of its own token.

    They are those of the engine under a policy whose heads all keep as many entries as the budget
    allows: the cache grows by one per step, and shrinks to the budget at an event.

    Args:
        prompt: length of the prompt in tokens.
        steps: number of decode steps.
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
    """The most entries a row holds: the cache needs this capacity."""
    return max(widths(prompt, steps, budget=budget, interval=interval), default=prompt)
