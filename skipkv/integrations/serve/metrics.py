"""Counts what a server does, and writes it as Prometheus reads it."""

import threading
import time
from collections import Counter, deque
from collections.abc import Iterable, Mapping

from skipkv.models.architecture import Architecture
from skipkv.runtime import Completion, Engine, Observer
from skipkv.runtime.results.observers import ObservedEvent, ObservedPass, ObservedToken

_SPAN = 10.0
"""Seconds over which the gauge of tokens per second looks back."""


class Meter(Observer):
    """Counts what one policy's server decodes; an observer of it.

    Args:
        engine: the server's engine.
    """

    def __init__(self, engine: Engine) -> None:
        found = Architecture.of(engine.model.config)
        # KV heads of the layers that attend to everything, and of those with a window
        self._heads = found.heads * len(found.full)
        self._windowed, self._window = found.heads * len(found.windowed), found.window or 0
        self._lock = threading.Lock()  # the decoding thread writes, another one reads
        self._seen: dict[tuple[int, int], int] = {}
        self._evicted: Counter[tuple[int, int]] = Counter()
        self._passes: deque[tuple[float, int]] = deque([(time.monotonic(), 0)])
        self.lanes = engine.batch_size
        self.events = self.evicted = self.tokens = self.prompt_tokens = 0
        self.ended: Counter[str] = Counter()

    def on_token(self, token: ObservedToken) -> None:
        """Count a token; the entry of the newest one is not stored yet."""
        with self._lock:
            self.tokens += 1
            self._seen[token.index, token.sample] = token.position

    def on_pass(self, passed: ObservedPass) -> None:
        """Note which sequences decode, and how many tokens there are by now."""
        now = time.monotonic()
        with self._lock:
            for row in passed.rows:
                self._seen.setdefault(row, 0)
            self._passes.append((now, self.tokens))
            while len(self._passes) > 2 and self._passes[1][0] < now - _SPAN:
                self._passes.popleft()

    def on_event(self, event: ObservedEvent) -> None:
        """Count events that dropped entries, as `Stats.events` does."""
        with self._lock:
            for one in event.sequences:
                key = one.index, one.sample
                self._seen[key] = one.seen
                self._evicted[key] += one.evicted
                self.events += one.evicted > 0
                self.evicted += one.evicted

    def on_completion(self, completion: Completion) -> None:
        """Count a sequence that is done."""
        key = completion.index, completion.sample
        with self._lock:
            self._seen.pop(key, None)
            self._evicted.pop(key, None)
            self.prompt_tokens += completion.prompt_tokens
            self.ended[completion.stop_reason] += 1

    def values(self) -> dict[str, float | int]:
        """The gauges: sequences that decode, entries they hold, tokens per second."""
        with self._lock:
            held = sum(
                self._heads * seen - self._evicted[key] + self._windowed * min(seen, self._window)
                for key, seen in self._seen.items()
            )
            past = time.monotonic() - _SPAN
            recent = [entry for entry in self._passes if entry[0] >= past]
            rate = 0.0
            if recent:
                before = next((e for e in reversed(self._passes) if e[0] < past), recent[0])
                rate = (self.tokens - before[1]) / _SPAN
            return {"running": len(self._seen), "held": held, "rate": rate}


_METRICS = (
    ("lanes", "gauge", "Sequences that can decode side by side."),
    ("lanes_busy", "gauge", "Sequences that decode now."),
    ("waiting", "gauge", "Sequences that wait for a lane."),
    ("entries_held", "gauge", "Entries in the cache, over all layers, KV heads and sequences."),
    ("tokens_per_second", "gauge", f"Tokens decoded in the last {_SPAN:g} seconds, per second."),
    ("generated_tokens_total", "counter", "Tokens decoded."),
    ("prompt_tokens_total", "counter", "Tokens of the prompts of sequences that ended."),
    ("events_total", "counter", "Compression events that dropped entries."),
    ("evicted_entries_total", "counter", "Entries dropped, over all layers and KV heads."),
)


def exposition(meters: Mapping[str, tuple[Meter, int]], responses: Mapping[int, int]) -> str:
    """The text that Prometheus scrapes.

    Args:
        meters: policy -> its meter, and how many sequences wait.
        responses: HTTP status -> how many.
    """
    lines: list[str] = []
    found = {}
    for policy, (meter, waiting) in meters.items():
        values = meter.values()
        found[policy] = (
            meter.lanes, values["running"], waiting, values["held"], round(values["rate"], 3),
            meter.tokens, meter.prompt_tokens, meter.events, meter.evicted,
        )  # fmt: skip
    for place, (name, kind, about) in enumerate(_METRICS):
        series = [({"policy": policy}, found[policy][place]) for policy in meters]
        lines += _family(name, kind, about, series)
    ended = [
        ({"policy": policy, "reason": reason}, count)
        for policy, (meter, _) in meters.items()
        for reason, count in sorted(meter.ended.items())
    ]
    lines += _family("sequences_total", "counter", "Sequences that ended, and why.", ended)
    answers = [({"status": str(status)}, count) for status, count in sorted(responses.items())]
    lines += _family("http_responses_total", "counter", "Responses begun.", answers)
    return "\n".join(lines) + "\n"


def _family(
    name: str, kind: str, about: str, series: Iterable[tuple[Mapping[str, str], float | int]]
) -> list[str]:
    lines = [f"# HELP skipkv_{name} {about}", f"# TYPE skipkv_{name} {kind}"]
    for labels, value in series:
        written = ",".join(f'{key}="{_escaped(text)}"' for key, text in labels.items())
        lines.append(f"skipkv_{name}{{{written}}} {value}")
    return lines


def _escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
