"""The scheduler's figure: who decodes in which slot and when, under two schedulers."""

from typing import Any

import runs
from style import BLUE, FAINT, ORANGE, PAPER, SKY, SOFT, figure

from skipkv import Engine, Policy, presets, tiny
from skipkv.schedulers import LengthGrouped

REQUESTS, SLOTS = 9, 3


def recorded(scheduler: Any) -> tuple[list[tuple[int, int, int, int]], int]:
    """(request, prompt tokens, first pass, last pass) of every request, and all passes."""
    network, tokenizer = runs.model()
    passes = [0]

    def count(*_: object) -> None:
        passes[0] += 1

    seeing = runs.SeeingScheduler(scheduler, passes)
    policy = presets.rkv(250, interval=16).with_(scheduler=seeing)
    engine = Engine(network, tokenizer, policy, batch_size=SLOTS)
    chats = [[{"role": "user", "content": p.question}] for p in tiny.problems(REQUESTS)]
    hook = network.register_forward_pre_hook(count)
    try:
        ended = {}
        completions = engine.generate(chats, max_new_tokens=640, ordered=False, progress=False)
        for completion in completions:
            ended[completion.index] = (completion.prompt_tokens, passes[0])
    finally:
        hook.remove()
    began = dict(seeing.admitted)
    spans = [(i, ended[i][0], began[i], ended[i][1]) for i in began]
    return sorted(spans, key=lambda span: span[2]), passes[0]


def lanes(spans: list[tuple[int, int, int, int]]) -> list[list[tuple[int, int, int, int]]]:
    """The same, by slot: each request in the first that is free when it begins."""
    free: list[list[tuple[int, int, int, int]]] = [[] for _ in range(SLOTS)]
    for span in spans:
        lane = next(line for line in free if not line or line[-1][3] <= span[2])
        lane.append(span)
    return free


def draw() -> Any:
    """A Gantt chart for each scheduler on one time axis."""
    runs_of = [
        ("Continuous(): a slot is taken as soon as it is free", Policy().scheduler),
        (f"LengthGrouped(batch_size={SLOTS}): a batch of like prompts, when all have finished",
         LengthGrouped(batch_size=SLOTS)),
    ]  # fmt: skip
    made = figure(5.3)
    results = [(title, *recorded(scheduler)) for title, scheduler in runs_of]
    longest = max(total for _, _, total in results)
    for number, (title, spans, total) in enumerate(results):
        axes = made.add_axes((0.08, 0.575 - 0.475 * number, 0.89, 0.32))
        axes.axvspan(0, total, color=FAINT, alpha=0.45, linewidth=0)
        busy = 0
        for slot, lane in enumerate(lanes(spans)):
            for index, prompt, begin, end in lane:
                busy += end - begin
                colour = (BLUE, SKY, ORANGE)[index % 3]
                axes.barh(slot, end - begin, left=begin, height=0.74, color=colour,
                          edgecolor=PAPER, linewidth=1.5)  # fmt: skip
                ink = PAPER if colour == BLUE else "#1b1b1b"
                axes.text(
                    (begin + end) / 2, slot, f"request {index}\n{prompt} + {end - begin}",
                    ha="center", va="center", color=ink, fontsize=7.5,
                )  # fmt: skip
        idle = 1 - busy / total / SLOTS
        says = f"{total} passes, slots idle {100 * idle:.0f} %"
        axes.set_title(title, loc="left", fontsize=9, pad=20)
        axes.text(0, -0.72, says, color=SOFT, fontsize=8.5)
        axes.axvline(total, color=SOFT, linewidth=1)
        axes.set_xlim(0, longest * 1.01)
        axes.set_ylim(SLOTS - 0.5, -0.6)
        axes.set_yticks(range(SLOTS), [f"slot {slot}" for slot in range(SLOTS)])
        axes.tick_params(left=False)
        axes.spines[["top", "right", "left"]].set_visible(False)
    axes.set_xlabel("forward passes (in a bar: prompt tokens + passes in the slot)")
    return made
