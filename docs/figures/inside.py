"""The files of the runtime in groups, and which group imports which: read from the code."""

import ast
from collections import Counter
from pathlib import Path
from typing import Any

from style import BLUE, FAINT, GREEN, INK, ORANGE, PINK, SKY, SOFT, box, canvas, figure

RUNTIME = Path(__file__).parents[2] / "skipkv" / "runtime"

TOP = {
    "ways in": ("engine", "attach", "server", "selection"),
    "the loop": ("loop", "session", "graph", "trial", "sentence_reader"),
}
"""The files of `skipkv/runtime` itself; the others are in folders."""

# left, top, width of each group's box
_PLACES = {
    "ways in": (0.15, 0.2, 3.75),
    "results": (4.1, 0.2, 3.75),
    "requests": (0.15, 1.75, 4.4),
    "text": (4.75, 1.75, 3.1),
    "the loop": (0.15, 3.3, 1.9),
    "parts": (2.25, 3.3, 2.8),
    "support": (5.25, 3.3, 2.6),
    "store": (0.15, 4.85, 3.9),
    "seam": (4.25, 4.85, 3.6),
}
_COLOURS = dict(
    zip(_PLACES, (BLUE, ORANGE, FAINT, SKY, FAINT, PINK, GREEN, SOFT, INK), strict=True)
)
_HEIGHT = 1.05


def groups() -> dict[str, tuple[str, ...]]:
    """Every file of the runtime, by its folder."""
    found = dict(TOP)
    for name in _PLACES:
        if name not in TOP:
            found[name] = tuple(sorted(p.stem for p in (RUNTIME / name).glob("[!_]*.py")))
    there = {path.stem for path in RUNTIME.rglob("[!_]*.py")}
    grouped = [name for names in found.values() for name in names]
    if sorted(grouped) != sorted(there):
        raise ValueError(f"not in exactly one group: {sorted(set(grouped) ^ there)}")
    return found


def imports() -> Counter[tuple[str, str]]:
    """How many files of one group import a file of another one."""
    group_of = {name: group for group, names in groups().items() for name in names}
    found: Counter[tuple[str, str]] = Counter()
    for path in sorted(RUNTIME.rglob("[!_]*.py")):
        tree = ast.parse(path.read_text())
        used = {
            name
            for node in ast.walk(tree)
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("skipkv.runtime")
            for name in ((node.module or "").split(".")[-1], *(a.name for a in node.names))
        }
        for other in used & set(group_of):
            pair = group_of[path.stem], group_of[other]
            if pair[0] != pair[1]:
                found[pair] += 1
    return found


def draw() -> Any:
    """A box for every group, with its files, and under them who imports whom."""
    grouped = groups()
    made = figure(8.5)
    axes = canvas(made, 8, 8.5)
    for group, (x, y, width) in _PLACES.items():
        box(axes, x, y, width, _HEIGHT, facecolor="#f6f7f9", edgecolor=_COLOURS[group], linewidth=2)
        axes.text(x + 0.12, y + 0.2, group, va="center", fontweight="bold", fontsize=9)
        names = [f"{name}.py" for name in grouped[group]]
        rows = 1 if len(names) <= 3 else 2 if len(names) <= 8 and width > 2.7 else 3
        columns = -(-len(names) // rows)
        for row in range(rows):
            some = names[row * columns : (row + 1) * columns]
            axes.text(
                x + 0.12, y + 0.5 + (0.28 if rows < 3 else 0.2) * row, "   ".join(some),
                va="center", fontsize=8, family="monospace", color=INK,
            )  # fmt: skip
    _passes(axes)
    axes.text(0.15, 6.25, "imports", va="center", fontweight="bold", fontsize=9)
    for row, group in enumerate(grouped):
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
        (0.9, 1.25, 1.75, "prompts, settings"),
        (0.9, 2.8, 3.3, "orders"),
        (0.9, 4.35, 4.85, "passes"),
        (2.9, 4.35, 4.85, "what is kept"),
        (4.6, 4.85, 4.35, "hidden states"),
        (4.3, 1.75, 1.25, "answers"),
    ):
        axes.annotate("", xy=(x, end), xytext=(x, start), arrowprops=arrow)
        axes.text(x + 0.08, (start + end) / 2, says, va="center", fontsize=8, color=SOFT)
    both = {**arrow, "arrowstyle": "<|-|>"}
    axes.annotate("", xy=(4.25, 5.4), xytext=(4.05, 5.4), arrowprops=both)
    axes.annotate("", xy=(2.25, 3.85), xytext=(2.05, 3.85), arrowprops=both)
