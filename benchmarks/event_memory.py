"""What a compression event needs beside the cache: the most bytes alive at once, by entries.

    python benchmarks/event_memory.py

A cache of random keys and values, full up to budget + interval, has one event. Counted are the
tensors that the event makes, and shown as multiples of the keys it looks at: those of one row (a
sequence in a layer) alone, and of all layers together.
"""

from typing import Annotated

import matplotlib.pyplot as plt
import torch
import typer
from pages import DOCS, insert

from skipkv import Policy, SentenceTable, presets
from skipkv.benchmark.live_memory import peak_bytes
from skipkv.runtime.parts.event import compress
from skipkv.runtime.store.forward import PromptForward
from skipkv.runtime.store.slots import CacheShape
from skipkv.runtime.store.store import SlotStore

INTERVAL = 128
SHAPES = {  # layers, KV heads, query heads per KV head, head size
    "tiny": (4, 2, 2, 32),
    "SmolLM2-135M": (30, 3, 3, 64),
    "R1-Distill-Qwen-7B": (28, 4, 7, 128),
}
SENTENCE = 16  # tokens


def main(
    page: Annotated[bool, typer.Option(help="Write docs/performance-cpu.md.")] = True,
) -> None:
    """Print a table, and draw memory against entries."""
    lines = ["| model | policy | one row | one sequence |", "|---|---|--:|--:|"]
    for model, (layers, *axes) in SHAPES.items():
        for name in ("streaming_llm", "snapkv", "rkv", "skipkv"):
            shares = [
                extra / keys
                for count in (1, layers)
                for extra, keys in [event(name, 1024, shape_of(count, *axes))]
            ]
            lines.append(f"| {model} | `{name}` | {shares[0]:.2f} | {shares[1]:.2f} |")
    table = "\n".join(lines)
    print(table)
    if page:
        insert(DOCS / "performance-cpu.md", "event-memory", table)
        draw()


def shape_of(layers: int, heads: int, groups: int, dim: int) -> CacheShape:
    """Axes of a cache."""
    return CacheShape(layers=layers, heads=heads, groups=groups, dim=dim)


def event(name: str, budget: int, shape: CacheShape) -> tuple[int, int]:
    """Bytes that an event of one sequence makes at most, and bytes of the keys it looks at."""
    policy = presets.get(name)(budget, interval=INTERVAL)
    seen = budget + INTERVAL
    with torch.inference_mode():
        store = filled(policy, shape, seen)
        tables = [sentences(seen)] if policy.needs.sentences else None
        keys = store.kv_bytes // 2
        extra = peak_bytes(lambda: compress(store, policy, [0], prompts=[0], tables=tables))
    return extra, keys


def filled(policy: Policy, shape: CacheShape, seen: int) -> SlotStore:
    """A cache with one sequence that holds all of its `seen` tokens."""
    store = SlotStore(shape, sequences=1, capacity=seen, needs=policy.needs)
    PromptForward(store, first=0, counts=[seen], columns=seen)
    [group] = store.groups
    random = torch.Generator().manual_seed(0)
    for tensor in (group.keys, group.values, group.queries):
        if tensor is not None:
            tensor.copy_(torch.randn(tensor.shape, generator=random))
    return store


def sentences(seen: int) -> SentenceTable:
    """Closed sentences of equal length, with random embeddings."""
    ends = torch.arange(SENTENCE, seen, SENTENCE)
    random = torch.Generator().manual_seed(0)
    embeddings = torch.nn.functional.normalize(torch.randn(len(ends), 64, generator=random), dim=-1)
    return SentenceTable.empty(64, device="cpu", prompt=0).extended(
        ends, embeddings, torch.zeros_like(ends)
    )


def draw() -> None:
    """Memory of an event of one row against the entries it looks at."""
    figure, axes = plt.subplots(figsize=(6.4, 3.6))
    budgets = [128, 384, 896, 1920, 3968, 8064]
    shape = shape_of(1, *SHAPES["SmolLM2-135M"][1:])
    held = [budget + INTERVAL for budget in budgets]
    for name in ("rkv", "snapkv", "streaming_llm"):
        extra = [event(name, budget, shape)[0] / 2**20 for budget in budgets]
        axes.plot(held, extra, marker="o", label=name)
    keys = [shape.heads * entries * shape.dim * 4 / 2**20 for entries in held]
    axes.plot(held, keys, color="grey", linestyle="--", label="the row's keys")
    axes.set(xlabel="entries per head", ylabel="MB", title="What an event of one row needs")
    axes.legend()
    figure.tight_layout()
    figure.savefig(DOCS / "images" / "performance-event-memory.png", dpi=110)


if __name__ == "__main__":
    typer.run(main)
