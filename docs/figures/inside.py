"""The files of the runtime in groups, and which group imports which: read from the code."""

import ast
from collections import Counter
from pathlib import Path
from typing import Any

from style import BLUE, FAINT, GREEN, INK, ORANGE, PINK, SKY, SOFT, box, canvas, figure

RUNTIME = Path(__file__).parents[2] / "skipkv" / "runtime"

GROUPS = {
    "ways in": ("engine", "server", "handle", "attach", "streaming", "selection"),
    "what was asked": (
        "orders",
        "prompts",
        "prefix",
        "sampling",
        "stopping",
        "support",
        "trial",
        "rounding",
        "fits",
        "continuing",
        "ranks",
    ),
    "the loop": ("loop", "sequence", "answer", "completion", "text", "marks", "thinking"),
    "who watches": ("observers", "timing", "progress"),
    "the session": ("session", "prefill", "graph", "compiled"),
    "asking the policy": ("event", "checked", "sentences", "last_hidden", "steering", "hidden"),
    "the store": ("store", "slots", "windows", "states", "forward", "decode", "kernels", "softmax"),
    "the seam": ("seam", "attention", "rotary", "writing"),
}
"""Every file of `skipkv/runtime`, once."""

# left, top, width of each group's box
_PLACES = {
    "ways in": (0.15, 0.2, 3.75),
    "what was asked": (4.1, 0.2, 3.75),
    "the loop": (0.15, 1.75, 4.4),
    "who watches": (4.75, 1.75, 3.1),
    "the session": (0.15, 3.3, 3.4),
    "asking the policy": (3.75, 3.3, 4.1),
    "the store": (0.15, 4.85, 3.75),
    "the seam": (4.1, 4.85, 3.75),
}
_COLOURS = dict(zip(GROUPS, (BLUE, SKY, ORANGE, FAINT, GREEN, PINK, SOFT, INK), strict=True))
_HEIGHT = 1.05


def files() -> set[str]:
    """The files of the runtime."""
    return {path.stem for path in RUNTIME.glob("*.py")} - {"__init__"}


def imports() -> Counter[tuple[str, str]]:
    """How many files of one group import a file of another one."""
    group_of = {name: group for group, names in GROUPS.items() for name in names}
    found: Counter[tuple[str, str]] = Counter()
    for name in sorted(files()):
        tree = ast.parse((RUNTIME / f"{name}.py").read_text())
        used = {
            node.module.split(".")[-1]
            for node in ast.walk(tree)
            if isinstance(node, ast.ImportFrom)
            and (node.module or "").startswith("skipkv.runtime.")
        }
        for other in used & files():
            pair = group_of[name], group_of[other]
            if pair[0] != pair[1]:
                found[pair] += 1
    return found


def draw() -> Any:
    """A box for every group, with its files, and under them who imports whom."""
    grouped = [name for names in GROUPS.values() for name in names]
    if sorted(grouped) != sorted(files()):
        raise ValueError(f"not in exactly one group: {sorted(set(grouped) ^ files())}")
    made = figure(8.5)
    axes = canvas(made, 8, 8.5)
    for group, (x, y, width) in _PLACES.items():
        box(axes, x, y, width, _HEIGHT, facecolor="#f6f7f9", edgecolor=_COLOURS[group], linewidth=2)
        axes.text(x + 0.12, y + 0.2, group, va="center", fontweight="bold", fontsize=9)
        names = [f"{name}.py" for name in GROUPS[group]]
        rows = 1 if len(names) <= 3 else 2 if len(names) <= 8 else 3
        columns = -(-len(names) // rows)
        for row in range(rows):
            some = names[row * columns : (row + 1) * columns]
            axes.text(
                x + 0.12, y + 0.5 + (0.28 if rows < 3 else 0.2) * row, "   ".join(some),
                va="center", fontsize=8, family="monospace", color=INK,
            )  # fmt: skip
    _passes(axes)
    axes.text(0.15, 6.25, "imports", va="center", fontweight="bold", fontsize=9)
    for row, group in enumerate(GROUPS):
        used = ", ".join(f"{other} ({count})" for other, count in _used(group)) or "none of them"
        axes.text(0.15, 6.55 + 0.24 * row, group, va="center", fontsize=8)
        axes.text(1.95, 6.55 + 0.24 * row, used, va="center", fontsize=7.2, color=SOFT)
    return made


def _used(group: str) -> list[tuple[str, int]]:
    found = {pair[1]: count for pair, count in imports().items() if pair[0] == group}
    return sorted(found.items(), key=lambda item: (-item[1], item[0]))


def _passes(axes: Any) -> None:
    """The way of a token down to the store, and back."""
    arrow = {"arrowstyle": "-|>", "color": SOFT, "linewidth": 1.3, "mutation_scale": 11,
             "shrinkA": 0, "shrinkB": 0}  # fmt: skip
    for x, start, end, says in (
        (1.2, 1.25, 1.75, "orders"),
        (1.2, 2.8, 3.3, "a pass"),
        (1.2, 4.35, 4.85, "where its entries go"),
        (5.9, 4.85, 4.35, "hidden states"),
        (3.35, 3.3, 2.8, "logits"),
        (3.35, 1.75, 1.25, "completions"),
    ):
        axes.annotate("", xy=(x, end), xytext=(x, start), arrowprops=arrow)
        axes.text(x + 0.08, (start + end) / 2, says, va="center", fontsize=8, color=SOFT)
    both = {**arrow, "arrowstyle": "<|-|>"}
    axes.annotate("", xy=(4.1, 5.4), xytext=(3.9, 5.4), arrowprops=both)
    axes.annotate("", xy=(3.75, 3.85), xytext=(3.55, 3.85), arrowprops=both)
