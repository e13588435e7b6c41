"""The cost of prompts of different lengths: rows differ in length, and have separate events.

    python benchmarks/unequal.py --rounds 9

`skipkv bench` gives all sequences prompts of one length, as its baselines want them; so all rows
hold equally many entries, and have their events together. Here the same policies decode prompts of
one length and prompts that grow shorter from one sequence to the next. The two take turns, round
by round; ratios are formed within a round, and shown are medians.
"""

import statistics
from typing import Annotated

import attrs
import torch
import typer

from skipkv import Engine, Sampling
from skipkv.benchmark import policies_of
from skipkv.benchmark.prompts import prompts
from skipkv.compositions import model_settings
from skipkv.models import load
from skipkv.runtime.results.timing import Timings


@attrs.frozen
class Cost:
    """The cost of a decode step, in seconds: the step itself, and its share of the events."""

    step: float
    events: float

    @property
    def whole(self) -> float:
        """Both."""
        return self.step + self.events


def main(
    model: Annotated[str, typer.Option(help="A folder, a hub id, a .gguf file, or tiny.")] = "tiny",
    policies: str = "streaming_llm,snapkv,rkv,skipkv",
    batch_size: int = 8,
    budget: int = 256,
    interval: int = 128,
    longest: Annotated[int, typer.Option(help="Tokens of the longest prompt.")] = 256,
    apart: Annotated[int, typer.Option(help="Tokens between one prompt and the next.")] = 15,
    new_tokens: int = 513,
    rounds: int = 5,
    threads: int = 2,
    seed: int = 0,
) -> None:
    """Print a Markdown table."""
    torch.set_num_threads(threads)
    weights, tokenizer = load(model, device="cpu")
    equal = prompts(tokenizer, count=batch_size, tokens=longest, seed=seed)
    unequal = tuple(prompt[: longest - apart * i] for i, prompt in enumerate(equal))
    subjects = policies_of(
        policies.split(","), settings=model_settings(model), config=weights.config, seed=seed
    )
    found: dict[str, list[tuple[Cost, Cost]]] = {subject.label: [] for subject in subjects}
    for _ in range(rounds):
        for subject in subjects:
            policy = subject.policy(budget=budget, interval=interval)
            engine = Engine(weights, tokenizer, policy, batch_size=batch_size, eos_token_ids=[])
            found[subject.label].append(
                (cost(engine, equal, new_tokens), cost(engine, unequal, new_tokens))
            )
    print(
        f"Batch {batch_size}, prompts of {longest} tokens beside prompts of {longest} to "
        f"{len(unequal[-1])}, {new_tokens} new tokens, medians of {rounds} rounds:\n"
    )
    print("| policy | ms/step | unequal | events, ms/step | unequal | x in all |")
    print("|---|--:|--:|--:|--:|--:|")
    for name, pairs in found.items():
        cells = [
            f"{1e3 * statistics.median(getattr(pair[i], what) for pair in pairs):.3f}"
            for what in ("step", "events")
            for i in (0, 1)
        ]
        ratio = statistics.median(apart.whole / even.whole for even, apart in pairs)
        print(f"| {name} | {' | '.join(cells)} | {ratio:.2f} |")


def cost(engine: Engine, given: tuple[tuple[int, ...], ...], new_tokens: int) -> Cost:
    """Decode once and return the cost."""
    timings = Timings()
    list(
        engine.generate(
            given,
            max_new_tokens=new_tokens,
            sampling=Sampling(),
            progress=False,
            observers=[timings],
        )
    )
    return Cost(statistics.median(timings.steps), sum(timings.events) / len(timings.steps))


if __name__ == "__main__":
    typer.run(main)
