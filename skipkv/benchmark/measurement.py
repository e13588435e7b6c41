"""The measurement of one run of one case, and the numbers derived from it."""

import math
import statistics
from collections.abc import Mapping
from typing import Any, Literal

import attrs

from skipkv._validators import is_a
from skipkv.benchmark.case import Case
from skipkv.benchmark.isolation import ERROR, OOM

Status = Literal["ok", "oom", "error"]


def _pairs(values: Any) -> tuple[tuple[Any, ...], ...]:
    return tuple(tuple(value) for value in values)


@attrs.frozen(kw_only=True)
class Measurement:
    """One run. Times are in seconds, memory in bytes; None if not measured.

    Args:
        subject: label of the subject.
        batch_size: sequences decoded together.
        budget: entries per KV head; None for a subject without a budget.
        repeat: number of the round, from 0.
        status: "ok", "oom" (memory ran out) or "error".
        reason: the reason of a failure.
        new_tokens: tokens decoded per sequence.
        first_token: time from the call to the first token.
        seconds: time from the call to the last token.
        cpu_seconds: processor time of all threads, from the first token to the last.
        steps: number of decode steps, one fewer than tokens.
        step_seconds: total time of all steps.
        step_median: median time of a step.
        step_p95: 95th percentile of the time of a step.
        events: number of compression events.
        event_seconds: total time of all events.
        event_median: median time of an event; 0 without events.
        peak_bytes: peak memory beyond that of the loaded model.
        held_bytes: bytes of keys and values that the subject should hold at most.
        kv_bytes: bytes of keys and values allocated, as the engine measured them.
        curve: (tokens, seconds since the call, bytes in use), at regular token counts.
        note: a remark for readers.
    """

    subject: str = attrs.field(validator=is_a(str))
    batch_size: int = attrs.field(validator=is_a(int))
    budget: int | None = attrs.field(validator=is_a(int, optional=True))
    repeat: int = attrs.field(validator=is_a(int))
    status: Status = "ok"
    reason: str | None = attrs.field(default=None, validator=is_a(str, optional=True))
    new_tokens: int = attrs.field(validator=is_a(int))
    first_token: float | int | None = attrs.field(
        default=None, validator=is_a(float, optional=True)
    )
    seconds: float | int | None = attrs.field(default=None, validator=is_a(float, optional=True))
    cpu_seconds: float | int | None = attrs.field(
        default=None, validator=is_a(float, optional=True)
    )
    steps: int = attrs.field(default=0, validator=is_a(int))
    step_seconds: float | int | None = attrs.field(
        default=None, validator=is_a(float, optional=True)
    )
    step_median: float | int | None = attrs.field(
        default=None, validator=is_a(float, optional=True)
    )
    step_p95: float | int | None = attrs.field(default=None, validator=is_a(float, optional=True))
    events: int = attrs.field(default=0, validator=is_a(int))
    event_seconds: float | int = attrs.field(default=0.0, validator=is_a(float))
    event_median: float | int = attrs.field(default=0.0, validator=is_a(float))
    peak_bytes: int | None = attrs.field(default=None, validator=is_a(int, optional=True))
    held_bytes: int | None = attrs.field(default=None, validator=is_a(int, optional=True))
    kv_bytes: int | None = attrs.field(default=None, validator=is_a(int, optional=True))
    curve: tuple[tuple[Any, ...], ...] = attrs.field(default=(), converter=_pairs, repr=False)
    note: str | None = attrs.field(default=None, validator=is_a(str, optional=True))

    @classmethod
    def of(
        cls,
        case: Case,
        *,
        repeat: int,
        new_tokens: int,
        answer: Mapping[str, Any],
        held_bytes: int | None = None,
        note: str | None = None,
    ) -> "Measurement":
        """Make a measurement of a run's record (`Recorder.end`), or of the reason of its failure.

        Args:
            case: the case.
            repeat: number of the round, from 0.
            new_tokens: tokens decoded per sequence.
            answer: the run's record, or the reason of its failure.
            held_bytes: bytes of keys and values that the subject should hold, if it says.
            note: a remark for readers.

        Example:
            >>> case = Case(subject="rkv", batch_size=2, budget=8)
            >>> recorded = {"first_token": 1.0, "seconds": 4.5, "cpu_seconds": 3.0, "steps": [1, 1],
            ...             "events": [1.5], "samples": [], "peak_bytes": None}
            >>> m = Measurement.of(case, repeat=0, new_tokens=3, answer=recorded)
            >>> m.tokens_per_second, m.decode_step, m.event_share
            (1.3333333333333333, 1.75, 0.42857142857142855)
        """
        named: dict[str, Any] = attrs.asdict(case)
        named |= {
            "repeat": repeat,
            "new_tokens": new_tokens,
            "held_bytes": held_bytes,
            "note": note,
        }
        if OOM in answer:
            return cls(**named, status="oom", reason=answer[OOM])
        if ERROR in answer:
            return cls(**named, status="error", reason=answer[ERROR])
        steps, events = sorted(answer["steps"]), answer["events"]
        return cls(
            **named,
            first_token=answer["first_token"],
            seconds=answer["seconds"],
            cpu_seconds=answer["cpu_seconds"],
            steps=len(steps),
            step_seconds=math.fsum(steps),
            step_median=statistics.median(steps) if steps else None,
            step_p95=steps[math.ceil(0.95 * len(steps)) - 1] if steps else None,
            events=len(events),
            event_seconds=math.fsum(events),
            event_median=statistics.median(events) if events else 0.0,
            peak_bytes=answer["peak_bytes"],
            kv_bytes=answer.get("kv_bytes"),
            curve=answer["samples"],
        )

    @property
    def case(self) -> Case:
        """The case that was measured."""
        return Case(subject=self.subject, batch_size=self.batch_size, budget=self.budget)

    @property
    def ok(self) -> bool:
        """Whether the run succeeded."""
        return self.status == "ok"

    @property
    def tokens_per_second(self) -> float | None:
        """Throughput of all sequences together, prefill included."""
        return None if not self.seconds else self.batch_size * self.new_tokens / self.seconds

    @property
    def decode_step(self) -> float | None:
        """Mean time of a decode step, events' share included."""
        if not self.steps or self.step_seconds is None:
            return None
        return (self.step_seconds + self.event_seconds) / self.steps

    @property
    def typical_step(self) -> float | None:
        """Median time of a step, plus the median time of an event spread over its steps.

        Unlike `decode_step`, rare steps that the machine delayed have no effect.
        """
        if not self.steps or self.step_median is None:
            return None
        return self.step_median + self.event_median * self.events / self.steps

    @property
    def cpu_step(self) -> float | None:
        """Processor time of a decode step, events' share included."""
        if not self.steps or self.cpu_seconds is None:
            return None
        return self.cpu_seconds / self.steps

    @property
    def event_share(self) -> float | None:
        """Events' share of the decoding time."""
        if self.step_seconds is None or not self.steps:
            return None
        return self.event_seconds / (self.step_seconds + self.event_seconds)
