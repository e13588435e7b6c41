"""The protocol of batch schedulers."""

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

from skipkv._types import Request


@runtime_checkable
class BatchScheduler(Protocol):
    """Chooses the waiting requests that enter the free slots now.

    The engine calls `admit` before the first step, and again whenever a slot is free and a request
    waits. A scheduler may hold requests back, as a static batch does while sequences are running.
    When nothing is running it must admit at least one.

    Laws: distinct indices into `waiting`, at most `free` of them; at least one when `running` is 0.
    If a scheduler raises or breaks a law, nothing says who should start next: all requests that
    still wait end with its error, and sequences already started decode to their end.
    """

    def admit(self, waiting: Sequence[Request], *, free: int, running: int) -> Sequence[int]:
        """Indices into `waiting` of the requests to start now, in the order of their slots.

        Args:
            waiting: requests not yet started, in the order they came; never empty.
            free: free slots; at least 1.
            running: sequences in the other slots, decoding or still reading their prompt.
        """
        ...
