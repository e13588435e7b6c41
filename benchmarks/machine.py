"""The lower bound of the floor: bytes and operations of a decode step at this machine's rates.

    python benchmarks/machine.py --runs runs/performance --smollm ./SmolLM2.gguf

Reads the measured floor from the runs of `performance.py`. A step reads every weight once and the
entries of every sequence; it multiplies each weight once per sequence. The rates are those of a
copy and of a matrix product too large for any cache.
"""

import json
import statistics
import time
from pathlib import Path
from typing import Annotated

import torch
import typer
from gpu import copy_bandwidth, weight_bytes
from pages import DOCS, insert

from skipkv.benchmark.schedule import widths
from skipkv.models import load
from skipkv.runtime.support.checks import cache_shape


def main(
    runs: Annotated[Path, typer.Option(help="Folder of the runs of performance.py.")],
    smollm: Annotated[str | None, typer.Option(help="SmolLM2-135M; left out by default.")] = None,
    page: Annotated[bool, typer.Option(help="Write docs/performance-cpu.md.")] = True,
) -> None:
    """Print a table of the least time of a step, and the floor's time."""
    device = torch.device("cpu")
    bandwidth, rate = copy_bandwidth(device), matmul_rate()
    lines = [
        f"{torch.get_num_threads()} threads; a copy moves {bandwidth / 1e9:.1f} GB/s, a float32 "
        f"matrix product does {rate / 1e9:.0f} GFLOP/s.",
        "",
        "| model | batch | reads MB | at that rate, ms | GFLOP | at that rate, ms | floor, ms |",
        "|---|--:|--:|--:|--:|--:|--:|",
    ]
    for name, model in {"tiny": "tiny", "smollm": smollm}.items():
        if model is None:
            continue
        weights, _ = load(model, device=device)
        size = weight_bytes(weights)
        shape = cache_shape(weights.config)
        entry = 2 * 4 * shape.layers * shape.heads * shape.dim
        for row in json.loads((runs / name / "summary.json").read_text())["rows"]:
            if row["subject"] != "floor":
                continue
            held = statistics.mean(widths(128, 2047, budget=row["budget"], interval=128))
            read = size + row["batch_size"] * entry * held
            work = row["batch_size"] * (
                2 * size / 4 + 4 * shape.layers * shape.heads * shape.groups * shape.dim * held
            )
            took = row["step"]["median"]
            lines.append(
                f"| {name} | {row['batch_size']} | {read / 1e6:.1f} | {1e3 * read / bandwidth:.2f} "
                f"| {work / 1e9:.3f} | {1e3 * work / rate:.2f} | {1e3 * took:.2f} |"
            )
    table = "\n".join(lines)
    print(table)
    if page:
        insert(DOCS / "performance-cpu.md", "machine", table)


def matmul_rate(size: int = 1024) -> float:
    """Floating-point operations per second of a square float32 product, a median."""
    one, other = torch.randn(2, size, size).unbind()
    times = []
    for _ in range(12):
        begun = time.perf_counter()
        one @ other
        times.append(time.perf_counter() - begun)
    return 2 * size**3 / statistics.median(times[2:])


if __name__ == "__main__":
    typer.run(main)
