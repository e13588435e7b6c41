"""Decode the same prompts under every preset and show what each one kept: `make demo`.

The model is a toy with random weights, so its words mean nothing; its cache is real. Watch the
entries: the full cache grows with every token, the others stay at budget + interval.
"""

import torch

from skipkv import Engine, presets
from skipkv.testing import toy_model, toy_tokenizer

BUDGET, INTERVAL, NEW_TOKENS = 64, 32, 512
PROMPTS = ["let me check seven times nine.\n\n", "one plus two is", "so a is b plus c.\n\nwait"]


def main() -> None:
    """Print a table, one line per preset."""
    torch.set_num_threads(1)  # the toy is too small for more to help
    model, tokenizer = toy_model(), toy_tokenizer()
    print(f"{len(PROMPTS)} prompts, {NEW_TOKENS} new tokens each; ", end="")
    print(f"budget {BUDGET} entries per layer and head, an event every {INTERVAL} steps\n")
    print("preset         most entries  events  evicted  KV memory   tok/s")
    for name in ("full", *presets.BUDGETED):
        preset = presets.get(name)
        policy = preset() if name == "full" else preset(BUDGET, interval=INTERVAL)
        engine = Engine(model, tokenizer, policy, batch_size=len(PROMPTS))
        stats = [c.stats for c in engine.generate(PROMPTS, max_new_tokens=NEW_TOKENS)]
        speed = sum(s.new_tokens for s in stats) / max(s.seconds for s in stats)
        print(
            f"{name:<14}{max(s.peak_entries for s in stats):>13}{sum(s.events for s in stats):>8}"
            f"{sum(s.evicted for s in stats):>9}"
            f"{sum(s.peak_kv_bytes for s in stats) / 1024:>8.0f} KB{speed:>8.0f}"
        )
    print("\nCompose your own in README.md; `skipkv generate --help` decodes with a real model.")


if __name__ == "__main__":
    main()
