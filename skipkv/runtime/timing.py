"""Where the time of a decode went, lap by lap."""

import time
from collections.abc import Callable
from typing import Literal

Kind = Literal["prefill", "step", "event"]
"""What a lap was spent on."""


class Timings:
    """The seconds of every prefill, decode step and compression event, in the order they came.

    Give one to `Engine.generate`. Laps follow one another without a gap, so they add up to the
    decode's wall time less what the reader of its results took. On an accelerator a lap ends where
    the loop reads from the device: steps are then timed in bursts, each step at its burst's mean.

    Args:
        clock: seconds, from any start.

    Example:
        >>> timings = Timings(clock=iter([0.0, 2.0, 3.0]).__next__)
        >>> timings.resume()
        >>> _ = timings.lap("prefill")
        >>> _ = timings.lap("step", steps=2)
        >>> timings.prefill, timings.steps, timings.events
        ([2.0], [0.5, 0.5], [])
    """

    def __init__(self, clock: Callable[[], float] = time.perf_counter) -> None:
        self._clock = clock
        self._since: float | None = None
        self.prefill: list[float] = []
        self.steps: list[float] = []
        self.events: list[float] = []

    def resume(self) -> None:
        """The next lap begins now."""
        self._since = self._clock()

    def lap(self, kind: Kind, *, steps: int = 1) -> float:
        """Book the time since the last lap; returns it.

        Args:
            kind: what it was spent on.
            steps: decode steps it holds, where it was spent on those.
        """
        now = self._clock()
        seconds = 0.0 if self._since is None else now - self._since
        self._since = now
        if kind == "step":
            self.steps += [seconds / steps] * steps
        else:
            (self.prefill if kind == "prefill" else self.events).append(seconds)
        return seconds
