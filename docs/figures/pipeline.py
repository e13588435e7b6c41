"""The way of a prompt through the runtime: which part is asked when, and what it answers."""

from typing import Any

from style import BLUE, FAINT, GREEN, INK, ORANGE, PAPER, PINK, SKY, SOFT, box, canvas, figure

TIMES = " \N{MULTIPLICATION SIGN} "
PARTS = {
    "Segmenter": GREEN,
    "Scorer": BLUE,
    "Evictor": ORANGE,
    "Steerer": PINK,
    "BatchScheduler": SKY,
}


def draw() -> Any:
    """Queue above, decode step in the middle, compression event below."""
    made = figure(6.75)
    axes = canvas(made, 8, 6.75)
    _node(axes, 0.15, 0.3, 1.0, 0.5, "prompt")
    _node(axes, 1.5, 0.3, 1.1, 0.5, "Request")
    _node(axes, 2.95, 0.3, 1.5, 0.5, "BatchScheduler", "who enters now")
    _node(axes, 4.8, 0.3, 1.3, 0.5, "a free slot\nof the batch")
    _node(axes, 6.45, 0.3, 1.4, 0.5, "prefill", "the prompt enters")
    for start, end in ((1.15, 1.5), (2.6, 2.95), (4.45, 4.8), (6.1, 6.45)):
        _arrow(axes, (start, 0.55), (end, 0.55))

    box(axes, 0.15, 1.35, 5.55, 2.2, facecolor="#f6f7f9", edgecolor=FAINT)
    axes.text(0.32, 1.57, "decode step", va="center", fontweight="bold")
    axes.text(
        1.32, 1.57, "all sequences together, one token each", va="center", color=SOFT, fontsize=8.5
    )
    _node(axes, 0.35, 1.85, 2.45, 0.62, "Steerer", "a delta to one layer's input,\nat delimiters")
    _node(
        axes, 3.05, 1.85, 2.45, 0.62, "model forward", "stock transformers; attends to\nthe cache"
    )
    _node(axes, 3.05, 2.75, 2.45, 0.62, "sample", "the next token of each\nsequence")
    _node(axes, 0.35, 2.75, 2.45, 0.62, "done?", "end of sequence, stop string,\nmax_new_tokens")
    _arrow(axes, (2.8, 2.16), (3.05, 2.16))
    _arrow(axes, (4.28, 2.47), (4.28, 2.75))
    _arrow(axes, (3.05, 3.06), (2.8, 3.06))
    _arrow(axes, (1.58, 2.75), (1.58, 2.47))
    axes.text(1.7, 2.61, "no", va="center", fontsize=8, color=SOFT)

    box(axes, 6.05, 1.35, 1.8, 4.85, facecolor="#fffaf0", edgecolor=FAINT)
    axes.text(6.95, 1.57, "slot cache", ha="center", va="center", fontweight="bold")
    axes.text(
        6.95, 2.05, TIMES.join(["layers", "sequences", "\nKV heads", "slots"]),
        ha="center", va="center", color=SOFT, fontsize=8.5,
    )  # fmt: skip
    axes.text(
        6.95, 2.95, "a decode step adds one\nentry per layer and head;\nat most budget +\n"
        "interval are held", ha="center", va="center", fontsize=8.5,
    )  # fmt: skip
    axes.text(
        6.95, 4.6, "an event drops entries\nuntil every row and head\nholds at most budget",
        ha="center", va="center", fontsize=8.5,
    )  # fmt: skip
    axes.text(
        6.95, 5.55, "each entry knows its\nposition; slots change", ha="center", va="center",
        color=SOFT, fontsize=8.5,
    )  # fmt: skip
    _arrow(axes, (7.35, 0.8), (7.35, 1.35))
    _arrow(axes, (5.5, 2.16), (6.05, 2.16), both=True)

    box(axes, 0.15, 4.15, 5.55, 2.05, facecolor="#f6f7f9", edgecolor=FAINT)
    axes.text(0.32, 4.37, "compression event", va="center", fontweight="bold")
    axes.text(1.78, 4.37, "rows of many layers in one view", va="center", color=SOFT, fontsize=8.5)
    _node(axes, 0.35, 4.62, 1.6, 0.62, "Segmenter", "sentences closed\nsince the last event")
    _node(axes, 2.15, 4.62, 1.55, 0.62, "Scorer", "CacheView →\na score per entry")
    _node(axes, 3.9, 4.62, 1.6, 0.62, "Evictor", "scores, view, budget\n→ keep mask")
    _node(axes, 3.9, 5.45, 1.6, 0.55, "compact", "cache drops the rest")
    _node(axes, 0.35, 5.45, 1.6, 0.55, "Steerer", "new counts of thoughts")
    _arrow(axes, (1.95, 4.93), (2.15, 4.93))
    _arrow(axes, (3.7, 4.93), (3.9, 4.93))
    _arrow(axes, (4.7, 5.24), (4.7, 5.45))
    _arrow(axes, (5.5, 5.72), (6.05, 5.72))
    _arrow(axes, (1.15, 5.24), (1.15, 5.45))
    _arrow(axes, (2.92, 3.55), (2.92, 4.15))
    axes.text(3.02, 3.85, "every `interval` steps of a sequence", va="center", fontsize=8.5)
    _arrow(axes, (0.6, 4.15), (0.6, 3.55))

    axes.plot([6.75, 6.75, 5.2], [0.8, 1.08, 1.08], color=SOFT, linewidth=1.1)
    _arrow(axes, (5.2, 1.08), (5.2, 1.35))
    axes.text(5.12, 1.2, "its first token", ha="right", va="center", fontsize=8.5)
    axes.plot([0.35, 0.05, 0.05, 3.7], [3.06, 3.06, 1.08, 1.08], color=SOFT, linewidth=1.1)
    _arrow(axes, (3.7, 1.08), (3.7, 0.8))
    axes.text(0.16, 1.2, "yes: a Completion goes out, its slot is free", va="center", fontsize=8.5)
    axes.text(0.15, 6.5, "parts of the policy:", va="center", fontsize=8.5, color=SOFT)
    x = 1.45
    for name, colour in PARTS.items():
        axes.plot([x], [6.5], "s", color=colour, markersize=8)
        axes.text(x + 0.12, 6.5, name, va="center", fontsize=8.5)
        x += 0.42 + 0.078 * len(name)
    return made


def _node(axes: Any, x: float, y: float, w: float, h: float, name: str, says: str = "") -> None:
    colour = PARTS.get(name)
    style = {"edgecolor": colour or SOFT, "linewidth": 2.2 if colour else 1.0, "facecolor": PAPER}
    box(axes, x, y, w, h, **style)
    lines = says.count("\n") + 1 if says else 0
    axes.text(
        x + w / 2, y + h / 2 - 0.085 * lines, name, ha="center", va="center",
        fontweight="bold" if colour else "normal", fontsize=9,
    )  # fmt: skip
    axes.text(
        x + w / 2, y + h / 2 + 0.085 + 0.01 * lines, says, ha="center", va="center", fontsize=8,
        color=SOFT, linespacing=1.15,
    )  # fmt: skip


def _arrow(
    axes: Any,
    start: tuple[float, float],
    end: tuple[float, float],
    *,
    both: bool = False,
) -> None:
    style = {"arrowstyle": "<|-|>" if both else "-|>", "color": SOFT, "linewidth": 1.1,
             "shrinkA": 0, "shrinkB": 0, "mutation_scale": 10}  # fmt: skip
    axes.annotate("", xy=end, xytext=start, arrowprops=style, color=INK)
