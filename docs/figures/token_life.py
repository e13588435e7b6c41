"""One token's entry from event to event: its position stays, its slot changes, and then it goes."""

import itertools
from typing import Any

import runs
import torch
from style import BLUE, GREEN, INK, PAPER, RED, SKY, SOFT, canvas, cell, figure

from skipkv import presets

BUDGET, INTERVAL, THRESHOLD = 160, 32, 0.7
POSITION, LAYER, HEAD = 151, 0, 0
MARK = "#F0E442"
LEFT, SIDE, TALL, EVENT = 1.32, 0.0272, 0.15, 0.72


def draw() -> Any:
    """Two strips per event, what the head holds before and after it."""
    policy = presets.skipkv(BUDGET, interval=INTERVAL, threshold=THRESHOLD)
    seeing = runs.SeeingScorer(policy.scorer)
    _, completion = runs.decode(policy.with_(scorer=seeing))
    shown = []
    for (view, scores), record in zip(seeing.seen, completion.trace, strict=True):
        held = [p for p in view.positions[LAYER, HEAD].tolist() if p >= 0]
        kept = [p for p in record.kept[LAYER, HEAD].tolist() if p >= 0]
        shown.append((record.seen, held, kept, view, scores))
        if POSITION not in kept:
            break
    top = 0.62
    height = top + EVENT * len(shown) + 0.62
    made = figure(height)
    axes = canvas(made, 8, height)
    axes.text(0.1, 0.28, "event", color=SOFT, va="center")
    axes.text(LEFT, 0.28, f"slots of layer {LAYER}, head {HEAD}", color=SOFT, va="center")
    axes.text(6.64, 0.28, f"position {POSITION}", va="center", fontweight="bold")
    before: float | None = None
    for number, (seen, held, kept, view, scores) in enumerate(shown):
        y = top + EVENT * number
        axes.text(0.1, y + 0.08, f"{seen} seen", va="center", fontweight="bold", fontsize=8.5)
        [table] = view.sentences or ()
        sentence = {p: int(table.sentence_of(torch.tensor(p))) for p in held}
        safe = {p for p, s in zip(held, view.protected[LAYER, HEAD].tolist(), strict=False) if s}
        for strip, positions in enumerate((held, kept)):
            at = y + strip * (TALL + 0.13)
            colours = []
            for position in positions:
                colour = BLUE if sentence[position] % 2 else SKY
                if strip == 0 and position not in kept:
                    colour = RED
                elif position in safe:
                    colour = GREEN
                colours.append(colour)
            slot = 0
            for colour, alike in itertools.groupby(colours):
                wide = len(list(alike))
                style = {"facecolor": colour, "edgecolor": "none"}
                cell(axes, LEFT + slot * SIDE, at, wide * SIDE, TALL, **style)
                slot += wide
            axes.text(
                LEFT - 0.08, at + TALL / 2, ("before", "after")[strip], ha="right", va="center",
                fontsize=7.5, color=SOFT,
            )  # fmt: skip
            if POSITION in positions:
                slot = positions.index(POSITION)
                x = LEFT + (slot + 0.5) * SIDE
                if before is not None:
                    start = at - (0.13 if strip else EVENT - 2 * TALL - 0.13)
                    axes.plot([before, x], [start, at], color=INK, linewidth=1.1)
                mark = {"facecolor": MARK, "edgecolor": INK, "linewidth": 0.9, "zorder": 4}
                cell(axes, x - 0.035, at - 0.02, 0.07, TALL + 0.04, **mark)
                before = x
        score = float(scores[LAYER, HEAD, held.index(POSITION)])
        first = held.index(POSITION)
        then = f"slot {kept.index(POSITION)}" if POSITION in kept else "dropped"
        text = f"slot {first}, score {score:+.3f}".replace("-", "\N{MINUS SIGN}")
        axes.text(6.64, y + TALL / 2, text, va="center", fontsize=8)
        axes.text(6.64, y + 1.5 * TALL + 0.13, then, va="center", fontsize=8,
                  color=INK if POSITION in kept else RED)  # fmt: skip
    y = top + EVENT * len(shown) + 0.12
    x = 0.55
    for colour, text in (
        (MARK, f"the entry at position {POSITION}"),
        (RED, "dropped at this event"),
        (GREEN, "window"),
    ):
        cell(axes, x, y, 0.2, 0.2, facecolor=colour, edgecolor=SOFT)
        axes.text(x + 0.27, y + 0.1, text, va="center", fontsize=8.5)
        x += 0.42 + 0.066 * len(text)
    for shift, colour in ((0, BLUE), (0.22, SKY)):
        cell(axes, x + shift, y, 0.2, 0.2, facecolor=colour, edgecolor=PAPER)
    axes.text(x + 0.49, y + 0.1, "others, two blues by sentence", va="center", fontsize=8.5)
    return made
