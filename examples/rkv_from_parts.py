"""R-KV rebuilt from parts, and one part exchanged.

A preset is a composition of parts. Written out, R-KV keeps the same tokens as `presets.rkv` at
every event and says the same; with another term it is a method of your own:
`python examples/rkv_from_parts.py`.
"""

import torch
import typer

from skipkv import Budget, Completion, Engine, Policy, presets, tiny
from skipkv.evictors import TopK
from skipkv.scorers import AccumulatedAttention, KeyRedundancy, WindowAttention


def rkv_from_parts(budget: int) -> Policy:
    """What the 8 newest queries attend to, less what other keys repeat; the best entries stay."""
    return Policy(
        budget=Budget(tokens=budget, interval=16, window=8),
        scorer=0.1 * WindowAttention(window=8, pool=7) - 0.9 * KeyRedundancy(),
        evictor=TopK(),
    )


def with_accumulated_attention(budget: int) -> Policy:
    """The same, but importance is what all queries so far attended to, as in H2O."""
    return rkv_from_parts(budget).with_(scorer=0.1 * AccumulatedAttention() - 0.9 * KeyRedundancy())


def kept(done: Completion) -> list[torch.Tensor]:
    """Positions kept at every event, per layer and head."""
    return [event.kept for event in done.trace or ()]


def main(problems: int = 8, budget: int = 196) -> None:
    """Decode the same problems with all three and compare."""
    torch.set_num_threads(1)
    model, tokenizer = tiny.load(device="cpu")
    asked = tiny.problems(problems)
    chats = [[{"role": "user", "content": problem.question}] for problem in asked]
    policies = {
        "presets.rkv": presets.rkv(budget, interval=16),
        "from parts": rkv_from_parts(budget),
        "one term exchanged": with_accumulated_attention(budget),
    }
    runs = {}
    for name, policy in policies.items():
        engine = Engine(model, tokenizer, policy, batch_size=problems)
        runs[name] = list(engine.generate(chats, max_new_tokens=640, trace=True, progress=False))
    preset = runs["presets.rkv"]
    print(f"{'':<20}{'same text':>10}{'same entries kept':>19}{'solved':>8}   scorer")
    for name, run in runs.items():
        texts = [a.text == b.text for a, b in zip(run, preset, strict=True)]
        events = [(kept(a), kept(b)) for a, b in zip(run, preset, strict=True)]
        same = [len(a) == len(b) and all(map(torch.equal, a, b)) for a, b in events]
        right = [rf"\boxed{{{p.answer}}}" in c.text for p, c in zip(asked, run, strict=True)]
        print(
            f"{name:<20}{sum(texts):>7}/{problems:<2}{sum(same):>16}/{problems:<2}"
            f"{sum(right):>5}/{problems:<2}   {policies[name].scorer}"
        )


if __name__ == "__main__":
    typer.run(main)
