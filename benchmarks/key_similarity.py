"""Finds the tokens of the embedded model's traces whose keys are similar to others.

python benchmarks/key_similarity.py
"""

import random
import statistics

import torch

from skipkv import tiny
from skipkv.runtime.seam.names import cache_name
from skipkv.tiny.traces import Trace, write_trace
from skipkv.tiny.vocabulary import IDS


def main() -> None:
    """Print how redundant definitions, values and other tokens are: 0 least, 1 most."""
    torch.set_num_threads(1)
    model, _ = tiny.load(device="cpu")
    ranks: dict[str, list[float]] = {}
    for number, problem in enumerate(tiny.problems(40)):
        trace = write_trace(problem, random.Random(number))
        ids = torch.tensor([[IDS[token] for token in trace.tokens]])
        with torch.inference_mode():
            cache = getattr(model(ids, use_cache=True), cache_name(model))
        keys = torch.cat([layer.keys[0] for layer in cache.layers])  # [layers * H, T, D]
        keys = torch.nn.functional.normalize(keys, dim=-1)
        similarity = (keys @ keys.transpose(1, 2)).mean(dim=-1)
        rank = similarity.argsort().argsort().float().mean(dim=0) / len(trace.tokens)
        for kind, value in zip(kinds(trace), rank.tolist(), strict=True):
            ranks.setdefault(kind, []).append(value)
    for kind, values in sorted(ranks.items()):
        print(f"{kind:<12}{statistics.mean(values):.2f} of {len(values)} tokens")


def kinds(trace: Trace) -> list[str]:
    """The kind of each token: a definition of the prompt, a value, or another."""
    found = ["other"] * len(trace.tokens)
    for fact, positions in trace.copies:
        for position in positions:
            if fact[0] == "value":
                found[position] = "value"
            elif fact[0] == "definition" and position < trace.prompt:
                found[position] = "definition"
    return found


if __name__ == "__main__":
    main()
