"""First come, first served."""

from collections.abc import Sequence

import attrs

from skipkv._types import Request


@attrs.frozen
class Fifo:
    """Starts requests in the order they came, as soon as a slot is free.

    Source: this library.

    Example:
        >>> waiting = [Request(index=i, prompt=[1], max_new_tokens=1) for i in range(3)]
        >>> list(Fifo().admit(waiting, free=2, running=6))
        [0, 1]
    """

    def admit(self, waiting: Sequence[Request], *, free: int, running: int) -> Sequence[int]:
        """The first `free` requests."""
        return range(min(free, len(waiting)))
