"""The evictor's figure: one row and head, and what each evictor keeps of it."""

from typing import Any

import torch
from style import BLUE, FAINT, GREEN, INK, PAPER, RED, SENTENCES, SOFT, canvas, cell, figure
from torch.nn.functional import normalize

from skipkv import CacheView, SentenceTable, Thought
from skipkv.evictors import Evictor, KeepAll, SentencePrimary, SinkAndRecent, TopK, WholeSentence

SLOTS, BUDGET, WINDOW, SINKS = 24, 18, 3, 1
ENDS = (4, 8, 13, 17, 21)
LEFT, SIDE = 2.12, 0.222


def example() -> tuple[CacheView, torch.Tensor]:
    """24 entries in five closed sentences and an open one; 3 repeats 1, and 4 repeats 2."""
    meaning = torch.tensor([[1.0, 0, 0], [0, 1, 0], [0, 0, 1], [0, 1, 0.1], [0.1, 0, 1]])
    table = SentenceTable(
        ends=torch.tensor(ENDS),
        embeddings=normalize(meaning, dim=-1),
        thoughts=torch.tensor([Thought.EXECUTION] * 3 + [Thought.REFLECTION] * 2),
    )
    positions = torch.arange(SLOTS)[None, None]
    view = CacheView(
        keys=torch.zeros(1, 1, SLOTS, 2),
        values=torch.zeros(1, 1, SLOTS, 2),
        positions=positions,
        protected=(positions < SINKS) | (positions >= SLOTS - WINDOW),
        seen=torch.tensor([SLOTS]),
        sequences=torch.tensor([0]),
        sentences=[table],
    )
    noise = torch.rand(1, 1, SLOTS, generator=torch.Generator().manual_seed(11))
    scores = 0.1 + 0.9 * noise
    return view, scores.masked_fill(positions >= SLOTS - WINDOW, 0.0)


def draw() -> Any:
    """Scores as bars, sentences below them, and a line of slots for every evictor."""
    view, scores = example()
    evictors: list[Evictor] = [
        KeepAll(),
        TopK(),
        SinkAndRecent(sinks=4),
        SentencePrimary(whole=False),
        SentencePrimary(whole=True),
        WholeSentence(),
    ]
    names = [
        "KeepAll()",
        "TopK()",
        "SinkAndRecent(sinks=4)",
        "SentencePrimary\n(whole=False)",
        "SentencePrimary\n(whole=True)",
        "WholeSentence()",
    ]
    top, line = 1.98, 0.46
    height = top + line * len(evictors) + 0.85
    made = figure(height)
    axes = canvas(made, 8, height)
    redundant = view.sentences[0].redundancy(0.95) > 0  # type: ignore[index]
    axes.text(0.1, 0.6, "score\n(higher means keep)", va="center", fontsize=8.5)
    axes.text(0.1, 1.22, "position", va="center", fontsize=8.5)
    axes.text(0.1, 1.57, "sentence", va="center", fontsize=8.5)
    for slot in range(SLOTS):
        x = LEFT + slot * SIDE
        tall = 0.85 * float(scores[0, 0, slot])
        colour = GREEN if view.protected[0, 0, slot] else BLUE
        cell(axes, x + 0.03, 1.07 - tall, SIDE - 0.06, tall, facecolor=colour, edgecolor=PAPER)
        axes.text(x + SIDE / 2, 1.22, str(slot), ha="center", va="center", fontsize=7.5)
    starts = (0, *ENDS)
    for number, (start, end) in enumerate(zip(starts, (*ENDS, SLOTS), strict=True)):
        closed = number < len(ENDS)
        gone = closed and bool(redundant[number])
        text = (f"{number}" + (" redundant" if gone else "")) if closed else "open"
        style = {"facecolor": SENTENCES[number] if closed else PAPER}
        cell(axes, LEFT + start * SIDE, 1.43, (end - start) * SIDE, 0.28, **style)
        axes.text(
            LEFT + (start + end) / 2 * SIDE, 1.575, text, ha="center", va="center", fontsize=7.5,
            color=RED if gone else INK,
        )  # fmt: skip
    axes.text(LEFT + SLOTS * SIDE + 0.12, 1.78, "kept", color=SOFT, va="center", fontsize=8.5)
    for row, (evictor, name) in enumerate(zip(evictors, names, strict=True)):
        y = top + row * line
        keep = evictor.keep(scores, view, BUDGET)[0, 0]
        axes.text(0.1, y + 0.15, name, va="center", fontsize=8.5)
        for slot in range(SLOTS):
            kept, safe = bool(keep[slot]), bool(view.protected[0, 0, slot])
            colour = (GREEN if safe else BLUE) if kept else PAPER
            cell(axes, LEFT + slot * SIDE, y, SIDE, 0.3, facecolor=colour, edgecolor=FAINT)
        count = f"{int(keep.sum())}"
        axes.text(LEFT + SLOTS * SIDE + 0.12, y + 0.15, count, va="center", fontweight="bold")
    y = top + row * line + 0.58
    for x, colour, text in (
        (LEFT, BLUE, "kept"),
        (LEFT + 0.85, PAPER, "dropped"),
        (LEFT + 1.95, GREEN, "kept because protected: sink and window"),
    ):
        cell(axes, x, y, 0.2, 0.2, facecolor=colour, edgecolor=SOFT)
        axes.text(x + 0.27, y + 0.11, text, va="center", fontsize=8.5)
    axes.text(
        LEFT, y + 0.45, f"budget {BUDGET}, window {WINDOW}, sinks {SINKS}; KeepAll ignores the "
        "budget", fontsize=8.5, color=SOFT, va="center",
    )  # fmt: skip
    return made
