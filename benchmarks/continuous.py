"""Continuous batching against static batches, and prompts in chunks against whole prompts.

    python benchmarks/continuous.py --rounds 5

First: problems of the embedded model, each decoded to a length of its own (EOS off; lengths are
drawn log-uniformly), by `Continuous` in either order and in static batches of as many slots, in
the order given. Second: the same with every eighth prompt a long one, which is fed in chunks
between decode steps or, as before there were chunks, all at once; the gap is the longest time
between two tokens of a sequence that is decoding.

Those compared take turns, round by round, so that a machine whose speed drifts treats them alike.
Ratios are formed within a round; what is shown is the median over the rounds. CPU time counts the
same work where other processes take the clock.
"""

import math
import operator
import random
import statistics
import time
from collections.abc import Callable, Sequence
from typing import Annotated, Any

import attrs
import torch
import typer
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from skipkv import Engine, Policy, presets
from skipkv.models import load
from skipkv.runtime.loop import DecodeLoop
from skipkv.runtime.requests.prefill import PREFILL_CHUNK
from skipkv.runtime.requests.sequence import Order
from skipkv.runtime.results.observers import Observers
from skipkv.runtime.results.timing import Timings
from skipkv.runtime.seam.cache import under_way
from skipkv.runtime.session import Session
from skipkv.runtime.store.forward import Forward
from skipkv.runtime.text.token_text import TokenText
from skipkv.schedulers import Continuous
from skipkv.tiny import problems


@attrs.frozen
class Static:
    """Batches in the order given: the next begins when the whole batch is done."""

    def admit(self, waiting: Sequence[Order], *, free: int, running: int) -> Sequence[int]:
        """The first requests when nothing is running, else none."""
        return () if running else range(min(free, len(waiting)))


class AtOnce(DecodeLoop):
    """Feeds whole prompts while the others wait."""

    def _feed_prompts(self) -> None:
        while self._session.newcomers:
            super()._feed_prompts()


@attrs.define
class Gaps:
    """A hook after the model that finds the longest time between two decode steps.

    Time without a decoding sequence does not count, because no sequence waits.
    """

    longest: float = 0.0
    steps: int = 0
    _since: float | None = None

    def __call__(self, module: torch.nn.Module, args: Any, kwargs: Any, output: Any) -> None:
        """A forward pass is over."""
        cache = under_way()
        if cache is not None:
            self.passed(cache.forward)

    def passed(self, forward: Forward) -> None:
        """This pass is over now."""
        now = time.perf_counter()
        if forward.first:  # a pass over newcomers: those in front of them wait
            return
        if forward.decoding:
            self.steps += 1
            if self._since is not None:
                self.longest = max(self.longest, now - self._since)
        self._since = now


@attrs.frozen(kw_only=True)
class Measured:
    """The cost of decoding a queue.

    Args:
        wall: seconds.
        cpu: seconds of this process on all cores.
        tokens: decoded.
        steps: decode steps.
        gap: the longest between two tokens of a sequence, in seconds.
        prompts: seconds of passes over prompts.
        stepping: seconds of decode steps.
        events: seconds of compression events.
    """

    wall: float
    cpu: float
    tokens: int
    steps: int
    gap: float
    prompts: float
    stepping: float
    events: float


def main(
    model: Annotated[str, typer.Option(help="A folder, a hub id, a .gguf file, or tiny.")] = "tiny",
    preset: Annotated[str, typer.Option(help="The policy; one that needs a budget, or full.")] = (
        "skipkv"
    ),
    requests: Annotated[int, typer.Option(help="How many problems.")] = 64,
    slots: Annotated[int, typer.Option(help="Sequences side by side.")] = 8,
    least: Annotated[int, typer.Option(help="Tokens of the shortest answer.")] = 64,
    most: Annotated[int, typer.Option(help="Tokens of the longest answer.")] = 512,
    long: Annotated[int, typer.Option(help="Tokens of a long prompt.")] = 2048,
    chunk: Annotated[int, typer.Option(help="Tokens of a prompt between steps.")] = PREFILL_CHUNK,
    budget: int = 256,
    interval: int = 128,
    rounds: int = 3,
    seed: int = 0,
) -> None:
    """Print two Markdown tables."""
    weights, tokenizer = load(model)
    policy = presets.full() if preset == "full" else presets.get(preset)(budget, interval=interval)
    short, mixed = queues(weights, tokenizer, requests, least, most, long, seed)

    def run(scheduler: Any, queue: list[Order], kind: type[DecodeLoop]) -> Measured:
        given = policy.with_(scheduler=scheduler)
        return measured(weights, tokenizer, given, queue, kind, slots=slots, chunk=chunk)

    schedulers = {
        "static batches": Static(),
        "`Continuous()`": Continuous(),
        '`Continuous(order="shortest_prompt")`': Continuous(order="shortest_prompt"),
    }
    table = compared(
        {
            name: lambda scheduler=scheduler: run(scheduler, short, DecodeLoop)
            for name, scheduler in schedulers.items()
        },
        rounds,
    )
    print(f"\n{requests} problems, {slots} slots, answers of {least} to {most} tokens, {preset}:\n")
    print(
        "| scheduler | decode steps | prompts s | steps s | events s | tokens/s | x static "
        "| x static, CPU time |"
    )
    print("|---|--:|--:|--:|--:|--:|--:|--:|")
    for name, row in table.items():
        parts = [
            f"{median(row, operator.attrgetter(part)):.2f}"
            for part in ("prompts", "stepping", "events")
        ]
        print(
            f"| {name} | {row[0].steps} | {' | '.join(parts)} | {median(row, speed):.0f} | "
            f"{ratio(row, table['static batches'], 'wall'):.2f} | "
            f"{ratio(row, table['static batches'], 'cpu'):.2f} |"
        )

    fed = {"all at once": AtOnce, f"in chunks of {chunk}": DecodeLoop}
    table = compared(
        {name: lambda kind=kind: run(Continuous(), mixed, kind) for name, kind in fed.items()},
        rounds,
    )
    print(f"\nThe same, every eighth prompt {long} tokens long:\n")
    print("| prompts are fed | tokens/s | longest gap, ms | mean step, ms |")
    print("|---|---|---|---|")
    for name, row in table.items():
        gap = 1e3 * median(row, lambda m: m.gap)
        step = 1e3 * median(row, lambda m: m.wall / m.steps)
        print(f"| {name} | {median(row, speed):.0f} | {gap:.0f} | {step:.1f} |")


def queues(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    count: int,
    least: int,
    most: int,
    long: int,
    seed: int,
) -> tuple[list[Order], list[Order]]:
    """Requests with answers of different lengths; the same with every eighth prompt a long one."""
    rng = random.Random(seed)
    engine = Engine(model, tokenizer, Policy())
    short, mixed = [], []
    for index, problem in enumerate(problems(count, seed=seed)):
        prompt = engine.encode([{"role": "user", "content": problem.question}])
        drawn = round(math.exp(rng.uniform(math.log(least), math.log(most))))
        request = Order(index=index, prompt=prompt, max_new_tokens=drawn)
        short.append(request)
        if index % 8 == 7:
            ids = [rng.randrange(model.config.vocab_size) for _ in range(long)]
            request = attrs.evolve(request, prompt=ids)
        mixed.append(request)
    return short, mixed


def measured(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    policy: Policy,
    queue: list[Order],
    kind: type[DecodeLoop],
    *,
    slots: int,
    chunk: int,
) -> Measured:
    """Decode a queue once."""
    text, gaps = TokenText(tokenizer), Gaps()
    timings = Timings()
    with torch.inference_mode():
        session = Session(model, policy, sequences=slots, text=text, observers=Observers([timings]))
    loop = kind(session, eos=frozenset(), text=text, prefill_chunk=chunk)
    handle = model.register_forward_hook(gaps, with_kwargs=True)
    try:
        wall, cpu = time.perf_counter(), time.process_time()
        tokens = sum(len(finished.tokens) for finished in loop.run(queue))
        wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    finally:
        handle.remove()
    return Measured(
        wall=wall,
        cpu=cpu,
        tokens=tokens,
        steps=gaps.steps,
        gap=gaps.longest,
        prompts=sum(timings.prefill),
        stepping=sum(timings.steps),
        events=sum(timings.events),
    )


def compared(
    competitors: dict[str, Callable[[], Measured]], rounds: int
) -> dict[str, list[Measured]]:
    """What each measured, per round."""
    found: dict[str, list[Measured]] = {name: [] for name in competitors}
    for number in range(rounds):
        for name, run in competitors.items():
            found[name].append(run())
            print(f"round {number + 1}, {name}: {found[name][-1].wall:.2f} s", flush=True)
    return found


def speed(run: Measured) -> float:
    """Tokens per second."""
    return run.tokens / run.wall


def median(runs: list[Measured], value: Callable[[Measured], float]) -> float:
    """The median over the rounds."""
    return statistics.median(map(value, runs))


def ratio(runs: list[Measured], base: list[Measured], clock: str) -> float:
    """How many times as fast as `base`, by the median of the rounds' ratios."""
    pairs = zip(runs, base, strict=True)
    return statistics.median(getattr(b, clock) / getattr(run, clock) for run, b in pairs)


if __name__ == "__main__":
    typer.run(main)
