"""Records the time and memory of one run of a subject."""

import time
from collections.abc import Callable
from typing import Any

from skipkv.benchmark.memory import Meter
from skipkv.runtime.results.timing import Kind, Timings


class Recorder(Timings):
    """Timings, with samples of the memory; the time of sampling is left out.

    Args:
        meter: measures the memory.
        every: tokens between two samples.
        clock: wall time in seconds.
        cpu_clock: processor time in seconds, of all threads together.
    """

    def __init__(
        self,
        meter: Meter,
        *,
        every: int,
        clock: Callable[[], float] = time.perf_counter,
        cpu_clock: Callable[[], float] = time.process_time,
    ) -> None:
        super().__init__(clock)
        self._meter = meter
        self._every = every
        self._cpu_clock = cpu_clock
        self._begun = 0.0
        self._cpu_begun: float | None = None
        self._cpu = 0.0
        self._tokens = 0
        self._elapsed = 0.0
        self._sampled = 0
        self._samples: list[tuple[int, float, int | None]] = []

    def begin(self) -> None:
        """Start the run, and with it the time to the first token."""
        self._begun = self._clock()
        self.resume()

    def lap(self, kind: Kind, *, steps: int = 1) -> float:
        """Record a lap; the first prefill counts from the start of the run."""
        seconds = super().lap(kind, steps=steps)
        assert self._since is not None
        if kind == "prefill" and self._tokens == 0:
            self._elapsed, self._tokens = self._since - self._begun, 1
            self._look()
            self._cpu_begun = self._cpu_clock()
        else:
            self._elapsed += seconds
            self._tokens += steps if kind == "step" else 0
            if self._tokens - self._sampled >= self._every and kind == "step":
                cpu = self._cpu_clock()
                self._look()
                if self._cpu_begun is not None:
                    self._cpu_begun += self._cpu_clock() - cpu
        return seconds

    def end(self) -> dict[str, Any]:
        """End the run; returns its record, ready for JSON."""
        if self._cpu_begun is not None:
            self._cpu = self._cpu_clock() - self._cpu_begun
        if self._tokens > self._sampled:  # no memory sample: the cache may be freed already
            self._samples.append((self._tokens, self._elapsed, None))
        return {
            "prefill": self.prefill,
            "steps": self.steps,
            "events": self.events,
            "first_token": self._samples[0][1],
            "seconds": self._elapsed,
            "cpu_seconds": self._cpu,
            "samples": self._samples,
            "peak_bytes": self._meter.peak(),
        }

    def _look(self) -> None:
        self._samples.append((self._tokens, self._elapsed, self._meter.now()))
        self._sampled = self._tokens
        self.resume()
