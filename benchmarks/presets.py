"""Every preset on the same prompts: memory measured and tokens per second, beside the full cache.

    python benchmarks/presets.py --model ./smollm2 --input gsm8k_test.jsonl --field question

Presets take turns, round by round, so that a machine whose speed drifts treats them alike; the
speed shown is the median over the rounds. EOS is ignored: all decode equally long.
"""

import json
import statistics
import time
from pathlib import Path
from typing import Annotated

import typer

from skipkv import Engine, Policy, presets
from skipkv.runtime.loading import load

NAMES = ("full", *presets.BUDGETED)


def main(
    model: Annotated[str, typer.Option(help="A folder, a hub id, a .gguf file, or tiny.")],
    source: Annotated[Path, typer.Option("--input", help="A JSONL file of prompts.")],
    field: Annotated[str, typer.Option(help="The field with the prompt.")] = "prompt",
    prompts: Annotated[int, typer.Option(help="How many of them, decoded as one batch.")] = 8,
    new_tokens: Annotated[int, typer.Option(help="Tokens decoded for each.")] = 512,
    budget: int = 256,
    interval: int = 128,
    rounds: int = 1,
) -> None:
    """Print a Markdown table, one row per preset."""
    weights, tokenizer = load(model)
    lines = source.read_text().splitlines()[:prompts]
    chats = [[{"role": "user", "content": json.loads(line)[field]}] for line in lines]
    speeds: dict[str, list[float]] = {name: [] for name in NAMES}
    rows: dict[str, str] = {}
    for _ in range(rounds):
        for name in NAMES:
            policy = _policy(name, budget, interval)
            engine = Engine(weights, tokenizer, policy, batch_size=len(chats), eos_token_ids=[])
            started = time.perf_counter()
            stats = [
                c.stats for c in engine.generate(chats, max_new_tokens=new_tokens, progress=False)
            ]
            seconds = time.perf_counter() - started
            speeds[name].append(sum(s.new_tokens for s in stats) / seconds)
            megabytes = sum(s.peak_kv_bytes for s in stats) / 1e6
            held, evicted = max(s.peak_entries for s in stats), sum(s.evicted for s in stats)
            rows[name] = f"{megabytes:.1f} | {held} | {sum(s.events for s in stats)} | {evicted}"
            print(f"{name}: {speeds[name][-1]:.1f} tokens/s", flush=True)
    full = statistics.median(speeds["full"])
    print(
        "\n| preset | budget | peak KV MB | most entries | events | evicted | tokens/s | x full |"
    )
    print("|---|---|---|---|---|---|---|---|")
    for name in NAMES:
        speed = statistics.median(speeds[name])
        size = "-" if name == "full" else budget
        print(f"| {name} | {size} | {rows[name]} | {speed:.1f} | {speed / full:.2f} |")


def _policy(name: str, budget: int, interval: int) -> Policy:
    return presets.full() if name == "full" else presets.get(name)(budget, interval=interval)


if __name__ == "__main__":
    typer.run(main)
