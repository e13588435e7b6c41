"""A profile of a policy: clocks around the phases of a step and of an event.

A profile wraps the functions of the phases from outside; the runtime has no code for it. The time
of a phase excludes the phases inside it.
"""

import importlib
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch

from skipkv.benchmark.bench import Bench
from skipkv.benchmark.prompts import prompts
from skipkv.benchmark.subjects import PolicySubject
from skipkv.runtime import Engine, Sampling

STEP, EVENT, OTHER = "step", "event", "other"

PHASES = (
    # name in the table, part, module, attribute
    ("prefill", OTHER, "skipkv.runtime.loop", "DecodeLoop._feed_prompts"),
    ("loop", STEP, "skipkv.runtime.loop", "DecodeLoop._steps"),
    ("bookkeeping before the model", STEP, "skipkv.runtime.session", "Session.begin_step"),
    ("model", STEP, "skipkv.runtime.loop", "DecodeLoop._forward"),
    ("cache write", STEP, "skipkv.runtime.seam", "SlotCache.write"),
    ("attention", STEP, "skipkv.runtime.seam", "SlotCache.attend"),
    ("steering", STEP, "skipkv.runtime.steering", "Steering._steered"),
    ("bookkeeping after the model", STEP, "skipkv.runtime.session", "Session.end"),
    ("sampling", STEP, "skipkv.runtime.loop", "choose"),
    ("reading tokens", STEP, "skipkv.runtime.loop", "DecodeLoop._read"),
    ("sentences", EVENT, "skipkv.runtime.session", "Session._read_decoded"),
    ("event, rest", EVENT, "skipkv.runtime.session", "Session.events"),
    ("view", EVENT, "skipkv.runtime.event", "_view"),
    ("checks", EVENT, "skipkv.runtime.event", "decide"),
    ("scores", EVENT, "skipkv.runtime.checked", "scores_of"),
    ("eviction", EVENT, "skipkv.runtime.checked", "_keep"),
    ("compaction", EVENT, "skipkv.runtime.slots", "SlotStore.compact"),
)
"""The phases; an outer phase counts without its inner phases."""


class Clocks:
    """Own seconds and calls of every phase."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._inner: list[float] = [0.0]  # seconds spent in phases inside those now open
        self.seconds: dict[str, float] = defaultdict(float)
        self.calls: dict[str, int] = defaultdict(int)

    def timed(self, phase: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """The function with a clock around it."""

        def run(*args: Any, **kwargs: Any) -> Any:
            started = self._now()
            self._inner.append(0.0)
            try:
                return function(*args, **kwargs)
            finally:
                whole = self._now() - started
                self.seconds[phase] += whole - self._inner.pop()
                self.calls[phase] += 1
                self._inner[-1] += whole

        return run

    def _now(self) -> float:
        if self._device.type == "cuda":  # a phase's time is the device's too
            torch.cuda.synchronize(self._device)
        return time.perf_counter()


@contextmanager
def clocked(device: torch.device) -> Iterator[Clocks]:
    """Within this context, all decoding in this process is timed by phase."""
    clocks = Clocks(device)
    undo: list[tuple[Any, str, Any]] = []
    try:
        for phase, _, module, path in PHASES:
            holder, name = _holder(module, path)
            function = getattr(holder, name)
            undo.append((holder, name, function))
            setattr(holder, name, clocks.timed(phase, function))
        yield clocks
    finally:
        for holder, name, function in undo:
            setattr(holder, name, function)


def profile_table(
    subjects: Sequence[PolicySubject], model: Any, tokenizer: Any, bench: Bench
) -> str:
    """A table per batch size and budget: milliseconds of every phase, per step or per event.

    Args:
        subjects: the policies.
        model: a causal language model.
        tokenizer: its tokenizer.
        bench: lengths, batch sizes and budgets; its rounds are unused.
    """
    rows = prompts(
        tokenizer, count=max(bench.batch_sizes), tokens=bench.prompt_tokens, seed=bench.seed
    )
    tables = []
    for batch_size in bench.batch_sizes:
        for budget in bench.budgets:
            profiles = {
                subject.label: _profile(
                    subject,
                    model,
                    tokenizer,
                    rows[:batch_size],
                    budget=budget if subject.takes_budget else None,
                    bench=bench,
                )
                for subject in subjects
            }
            tables.append(
                f"Batch {batch_size}, budget {budget}, {bench.new_tokens} new tokens; ms per step, "
                f"and for an event's phases ms per event.\n\n{_table(profiles, bench)}"
            )
    return "\n\n".join(tables)


def _profile(
    subject: PolicySubject,
    model: Any,
    tokenizer: Any,
    rows: Sequence[Sequence[int]],
    *,
    budget: int | None,
    bench: Bench,
) -> Clocks:
    policy = subject.policy(budget=budget, interval=bench.interval)
    engine = Engine(model, tokenizer, policy, batch_size=len(rows), eos_token_ids=[])
    list(
        engine.generate(
            rows, max_new_tokens=bench.interval + 2, sampling=Sampling(), progress=False
        )
    )
    with clocked(model.device) as clocks:
        list(
            engine.generate(
                rows, max_new_tokens=bench.new_tokens, sampling=Sampling(), progress=False
            )
        )
    return clocks


def _table(profiles: dict[str, Clocks], bench: Bench) -> str:
    names = list(profiles)
    lines = [f"| phase | {' | '.join(names)} |", "|---|" + "--:|" * len(names)]
    steps = bench.new_tokens - 1
    for part in (STEP, EVENT):
        totals = dict.fromkeys(names, 0.0)
        for phase, of, _, _ in PHASES:
            if of != part:
                continue
            cells = []
            for name in names:
                clocks = profiles[name]
                times = steps if part == STEP else clocks.calls["compaction"] and _events(clocks)
                per = 1e3 * clocks.seconds[phase] / times if times else 0.0
                totals[name] += per
                cells.append(f"{per:.3f}" if clocks.calls[phase] else "-")
            lines.append(f"| {phase} | {' | '.join(cells)} |")
        summed = " | ".join(f"{totals[name]:.3f}" for name in names)
        lines.append(f"| **{'a step' if part == STEP else 'an event'}** | {summed} |")
    return "\n".join(lines)


def _events(clocks: Clocks) -> int:
    """The number of events, those of the prompt's passes included."""
    return clocks.calls["event, rest"]


def _holder(module: str, path: str) -> tuple[Any, str]:
    """The object that has an attribute, and the attribute's name."""
    *outer, name = path.split(".")
    holder: Any = importlib.import_module(module)
    for part in outer:
        holder = getattr(holder, part)
    return holder, name
