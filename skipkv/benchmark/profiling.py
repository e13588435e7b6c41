"""Where a policy's time goes: clocks around the model, its attention and the parts of the policy.

The clocks use what is public: hooks of the model, wrapped parts of the policy, and an observer. A
phase's time is its own: what it spends inside another phase counts there.
"""

import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch

from skipkv.benchmark.bench import Bench
from skipkv.benchmark.prompts import prompts
from skipkv.benchmark.subjects import PolicySubject
from skipkv.models.architecture import attention_modules
from skipkv.policy import Policy
from skipkv.runtime import Engine, Observer, Sampling
from skipkv.runtime.results.timing import Kind, Timings

REST = "the rest"
PHASES: dict[Kind, tuple[str, ...]] = {
    "step": ("model", "attention", "steering", REST),
    "event": ("sentences", "scores", "eviction", REST),
}
"""The phases of a step and of an event. Attention is with its projections and its cache."""


class Clocks(Timings):
    """Own seconds and calls of every phase, by what the engine was doing: see `Kind`.

    Args:
        device: whose work is waited for whenever the clock is read.
    """

    def __init__(self, device: torch.device) -> None:
        def now() -> float:
            if device.type == "cuda":  # a phase's time is the device's too
                torch.cuda.synchronize(device)
            return time.perf_counter()

        super().__init__(now)
        self._open: list[tuple[str, float, float]] = []  # phase, its start, seconds inside others
        self._since_lap: dict[str, float] = defaultdict(float)
        self.seconds: dict[tuple[Kind, str], float] = defaultdict(float)

    def begin(self, phase: str) -> None:
        """A phase begins."""
        self._open.append((phase, self._clock(), 0.0))

    def end(self) -> None:
        """The phase that began last ends."""
        phase, started, inside = self._open.pop()
        whole = self._clock() - started
        self._since_lap[phase] += whole - inside
        if self._open:
            outer, began, others = self._open.pop()
            self._open.append((outer, began, others + whole))

    def lap(self, kind: Kind, *, steps: int = 1) -> float:
        """Book a lap, and the phases in it; what is in no phase is the rest."""
        seconds = super().lap(kind, steps=steps)
        phases, self._since_lap = self._since_lap, defaultdict(float)
        for phase, own in phases.items():
            self.seconds[kind, phase] += own
        self.seconds[kind, REST] += seconds - sum(phases.values())
        return seconds

    def timed(self, phase: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """The function with a clock around it."""

        def run(*args: Any, **kwargs: Any) -> Any:
            self.begin(phase)
            try:
                return function(*args, **kwargs)
            finally:
                self.end()

        return run

    def policy(self, policy: Policy) -> Policy:
        """The policy with a clock around each of its parts."""
        steerer = policy.steerer
        return policy.with_(
            segmenter=_TimedPart(policy.segmenter, "cut", "sentences", self),
            scorer=_TimedPart(policy.scorer, "score", "scores", self),
            evictor=_TimedPart(policy.evictor, "keep", "eviction", self),
            steerer=steerer
            if steerer.layer is None
            else _TimedPart(steerer, "delta", "steering", self),
        )

    @contextmanager
    def hooked(self, model: Any) -> Iterator[None]:
        """While it lasts, the model and its attention are timed."""
        phases = {model: "model"}
        phases |= dict.fromkeys(attention_modules(model), "attention")
        handles = []
        for module, phase in phases.items():
            handles += [
                module.register_forward_pre_hook(lambda *_, phase=phase: self.begin(phase)),
                module.register_forward_hook(lambda *_: self.end()),
            ]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()


class _TimedPart:
    """A part of a policy, with a clock around one of its methods."""

    def __init__(self, part: object, method: str, phase: str, clocks: Clocks) -> None:
        self._part = part
        setattr(self, method, clocks.timed(phase, getattr(part, method)))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._part, name)


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
                f"and for an event's phases ms per event.\n\n{_table(profiles)}"
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

    def decode(policy: Policy, new_tokens: int, observers: Sequence[Observer]) -> None:
        # A replayed graph runs no hooks, and compiled layers no hooks of the modules inside them.
        engine = Engine(
            model,
            tokenizer,
            policy,
            batch_size=len(rows),
            eos_token_ids=[],
            graphs=False,
            compile=False,
        )
        list(
            engine.generate(
                rows,
                max_new_tokens=new_tokens,
                sampling=Sampling(),
                progress=False,
                observers=observers,
            )
        )

    decode(policy, bench.interval + 2, [])  # a warm-up
    clocks = Clocks(model.device)
    with clocks.hooked(model):
        decode(clocks.policy(policy), bench.new_tokens, [clocks])
    return clocks


def _table(profiles: dict[str, Clocks]) -> str:
    names = list(profiles)
    lines = [f"| phase | {' | '.join(names)} |", "|---|" + "--:|" * len(names)]
    for kind, phases in PHASES.items():
        totals = dict.fromkeys(names, 0.0)
        for phase in phases:
            cells = []
            for name, clocks in profiles.items():
                times = len(clocks.steps if kind == "step" else clocks.events)
                spent = clocks.seconds.get((kind, phase))
                per = 1e3 * (spent or 0.0) / max(times, 1)
                totals[name] += per
                cells.append("-" if spent is None else f"{per:.3f}")
            of = f"{phase} of {'a step' if kind == 'step' else 'an event'}"
            lines.append(f"| {of if phase == REST else phase} | {' | '.join(cells)} |")
        summed = " | ".join(f"{totals[name]:.3f}" for name in names)
        lines.append(f"| **{'a step' if kind == 'step' else 'an event'}** | {summed} |")
    return "\n".join(lines)
