"""The scorer's figure: a view of two sequences in two layers, and the scores it gets."""

from typing import Any

import runs
import torch
from style import FAINT, GREEN, INK, PAPER, RED, SENTENCES, SOFT, canvas, cell, figure

import skipkv
from skipkv import Budget, CacheView, Policy
from skipkv.evictors import SentencePrimary
from skipkv.scorers import KeyRedundancy, SentenceRedundancy, WindowAttention

PROMPTS = ("a:4.\nb:a+7.\nc:a+2.\nb:a+7.\nd:1.\nb:8.\n", "p:7.\nq:p+9.\np:7.\n")
THRESHOLD = 0.8
LEFT, SIDE, LINE = 1.62, 0.315, 0.24


def recorded() -> tuple[CacheView, torch.Tensor]:
    """The first view that holds both sequences, and the scores of R-KV less sentence redundancy."""
    scorer = runs.SeeingScorer(
        0.1 * WindowAttention(window=4, pool=3)
        - 0.9 * KeyRedundancy()
        - SentenceRedundancy(threshold=THRESHOLD)
    )
    policy = Policy(
        budget=Budget(tokens=16, interval=8, window=4),
        scorer=scorer,
        evictor=SentencePrimary(threshold=THRESHOLD, whole=False),
    )
    network, tokenizer = runs.model()
    inputs = tokenizer(list(PROMPTS), return_tensors="pt", padding=True)
    # a batch under `generate()` goes in step, so that an event of the two is one
    with skipkv.attach(network, policy, tokenizer=tokenizer):
        network.generate(**inputs, max_new_tokens=6, do_sample=False)
    return next((view, scores) for view, scores in scorer.seen if view.sequences.max() == 1)


def draw() -> Any:
    """Rows and heads below each other, slots to the right; positions above, scores below."""
    view, scores = recorded()
    rows, heads, slots = view.positions.shape
    rows = min(rows, 4)  # two layers of the four
    strip = 2 * LINE + 0.1
    top = 0.75
    height = top + rows * (heads * strip + 0.2) + 0.9
    made = figure(height)
    axes = canvas(made, 8, height)
    axes.text(LEFT, 0.2, f"slot (L = {slots})", color=SOFT, va="center")
    for slot in range(slots):
        axes.text(
            LEFT + (slot + 0.5) * SIDE, 0.48, str(slot), ha="center", va="center", color=SOFT,
            fontsize=8,
        )  # fmt: skip
    ids = view.sentence_ids
    y = top
    for row in range(rows):
        sequence, layer = int(view.sequences[row]), row // int(view.sequences.max() + 1)
        middle = y + heads * strip / 2 - 0.05
        axes.text(0.1, middle - 0.11, f"row {row}", va="center", fontweight="bold")
        axes.text(0.1, middle + 0.12, f"sequence {sequence}", va="center", color=SOFT, fontsize=8)
        axes.text(0.1, middle + 0.31, f"layer {layer}", va="center", color=SOFT, fontsize=8)
        for head in range(heads):
            axes.text(0.98, y + 0.13, f"head {head}", va="center", fontsize=8)
            axes.text(0.98, y + 0.13 + LINE, "score", va="center", fontsize=8, color=SOFT)
            for slot in range(slots):
                _slot(axes, view, scores, ids, (row, head, slot), y)
            y += strip
        y += 0.2
    _legend(axes, y + 0.12, view)
    return made


def _slot(axes: Any, view: CacheView, scores: Any, ids: Any, at: tuple[int, ...], y: float) -> None:
    x = LEFT + at[2] * SIDE
    if not view.occupied[at]:
        cell(axes, x, y, SIDE, 2 * LINE, facecolor=PAPER, hatch="////", edgecolor=FAINT)
        return
    sentence = int(ids[at])
    colour = SENTENCES[sentence] if sentence >= 0 else PAPER
    cell(axes, x, y, SIDE, LINE, facecolor=colour)
    axes.text(
        x + SIDE / 2, y + LINE / 2, str(int(view.positions[at])), ha="center", va="center",
        fontsize=8,
    )  # fmt: skip
    score = float(scores[at])
    cell(axes, x, y + LINE, SIDE, LINE, facecolor=_heat(score))
    text = f"{round(score, 2) + 0.0:.2f}".replace("0.", ".").replace("-", "\N{MINUS SIGN}")
    axes.text(
        x + SIDE / 2, y + 1.5 * LINE, text, ha="center", va="center", fontsize=6.5,
        color=PAPER if score < -0.5 else INK,
    )  # fmt: skip
    if view.protected[at]:
        style = {"facecolor": "none", "edgecolor": GREEN, "linewidth": 1.8, "zorder": 3}
        cell(axes, x + 0.02, y + 0.02, SIDE - 0.04, 2 * LINE - 0.04, **style)


def _heat(score: float) -> str:
    """Red for entries of a redundant sentence; others from white to grey, higher is darker."""
    if score < -0.5:
        return RED
    level = min(max((score + 0.08) / 0.14, 0), 1)
    shade = round(255 - 95 * level)
    return f"#{shade:02x}{shade:02x}{shade:02x}"


def _legend(axes: Any, y: float, view: CacheView) -> None:
    count = max(len(table) for table in view.sentences or ())
    lines = [
        [(SENTENCES[i], f"sentence {i}" if i == 0 else str(i)) for i in range(count)]
        + [(PAPER, "open sentence")],
        [
            ("hatch", "empty slot, position \N{MINUS SIGN}1"),
            ("protected", "protected (window)"),
            (RED, "score of a redundant sentence's entry"),
        ],
    ]
    axes.text(0.1, y, "numbers in the\nupper line of a\nhead: positions", fontsize=8, va="top")
    for number, line in enumerate(lines):
        x = LEFT
        for colour, text in line:
            style: dict[str, Any] = {"facecolor": colour}
            if colour == "hatch":
                style = {"facecolor": PAPER, "hatch": "////"}
            if colour == "protected":
                style = {"facecolor": PAPER, "edgecolor": GREEN, "linewidth": 1.8}
            cell(axes, x, y + 0.32 * number, 0.2, 0.2, **style)
            axes.text(x + 0.27, y + 0.32 * number + 0.1, text, va="center", fontsize=8)
            x += 0.42 + 0.073 * len(text)
