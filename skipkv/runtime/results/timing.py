"""The time that a decode spends on prefill, steps and events."""

import time
from collections.abc import Callable
from typing import Literal

from skipkv.runtime.results.observers import ObservedEvent, ObservedPass, Observer

Kind = Literal["prefill", "step", "event"]
"""What the time of a lap was spent on."""


class Timings(Observer):
    """The seconds of every prefill, decode step and compression event, in their order.

    It is an observer: `engine.generate(prompts, observers=[timings])`. Laps follow one another
    without a gap. Their sum is the decode's wall time without the time that the caller spends
    between results. On an accelerator a lap ends where the loop reads from the device. Steps are
    then timed in bursts, and each step of a burst gets its mean.

    Args:
        clock: returns seconds, from any start.

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
        """Begin the next lap now."""
        self._since = self._clock()

    def on_resume(self) -> None:
        """Leave out what the caller did with the last result."""
        self.resume()

    def on_pass(self, passed: ObservedPass) -> None:
        """End the lap of a prompt, with its events, or of some decode steps."""
        self.lap("prefill" if passed.kind == "prompt" else "step", steps=passed.steps)

    def on_event(self, event: ObservedEvent) -> None:
        """End the lap of an event between two steps."""
        if not event.prompt:
            self.lap("event")

    def lap(self, kind: Kind, *, steps: int = 1) -> float:
        """Record the time since the last lap; returns it.

        Args:
            kind: what the time was spent on.
            steps: the number of decode steps in it, if it was spent on steps.
        """
        now = self._clock()
        seconds = 0.0 if self._since is None else now - self._since
        self._since = now
        if kind == "step":
            self.steps += [seconds / steps] * steps
        else:
            (self.prefill if kind == "prefill" else self.events).append(seconds)
        return seconds
