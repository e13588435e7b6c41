"""Text as it is decoded, in an order that a scheduler of one's own decides.

`Engine.stream` yields pieces of all sequences that run side by side; the last piece of each carries
its completion. The scheduler lets short prompts go first without starving long ones:
`python examples/streaming.py`. Every line begins with the number of its prompt; where two
numbers alternate, two sequences are decoded side by side.
"""

from collections.abc import Sequence

import attrs
import torch
import typer

from skipkv import Engine, Request, presets, tiny
from skipkv.testing import check_scheduler, laws_of


@attrs.frozen(kw_only=True)
class ShortestFirst:
    """Short prompts first, with ageing: who came earlier counts as shorter.

    A request is passed by later ones only while their prompts are shorter by more than `ageing` for
    every place between them, so by at most its own length / `ageing` of them. It looks at nothing
    but the queue, and so may serve many calls.

    Args:
        ageing: prompt tokens that one place in the queue is worth; 0 starves long prompts.
    """

    ageing: float = 2.0

    def admit(self, waiting: Sequence[Request], *, free: int, running: int) -> Sequence[int]:
        """The `free` requests with the least length and place."""
        costs = [r.prompt_tokens + self.ageing * r.index for r in waiting]
        return sorted(range(len(waiting)), key=costs.__getitem__)[:free]


def main(
    problems: int = 3, batch_size: int = 2, ageing: float = 2.0, stop: str = "</think>"
) -> None:
    """Stream a few problems of `tiny`, a line whenever a sequence has one."""
    torch.set_num_threads(1)
    scheduler = ShortestFirst(ageing=ageing)
    check_scheduler(scheduler)
    print(f"{scheduler} keeps {len(laws_of(scheduler))} laws of schedulers.\n")
    policy = presets.rkv(budget=250, interval=16).with_(scheduler=scheduler)
    engine = Engine(*tiny.load(device="cpu"), policy, batch_size=batch_size)
    asked = tiny.problems(problems)
    chats = [[{"role": "user", "content": problem.question}] for problem in asked]
    open_lines = [""] * problems
    for piece in engine.stream(chats, max_new_tokens=640, stop=[stop] if stop else []):
        *lines, open_lines[piece.index] = (open_lines[piece.index] + piece.text).split("\n")
        for line in filter(None, lines):
            print(f"{piece.index} | {line}", flush=True)
        if (done := piece.completion) is not None:
            print(f"{piece.index} = {open_lines[piece.index] or 'end'}", end=" ")
            print(f"({done.prompt_tokens} + {done.stats.new_tokens} tokens, {done.stop_reason})")


if __name__ == "__main__":
    typer.run(main)
