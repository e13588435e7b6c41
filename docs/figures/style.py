"""What all figures share: size, colours, and files that are the same bytes at every run.

The background is white and opaque, so that a figure reads alike on a light and on a dark page.
"""

from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch, Rectangle

INK, SOFT, FAINT, PAPER = "#1b1b1b", "#5f6368", "#d5d8dc", "#ffffff"
# Okabe and Ito's palette, told apart also by those who see no red or green.
BLUE, ORANGE, GREEN, PINK, SKY, RED = (
    "#0072B2",
    "#E69F00",
    "#009E73",
    "#CC79A7",
    "#56B4E9",
    "#D55E00",
)
THOUGHTS = {0: "#cfe5f5", 1: "#ffe2a8", 2: "#f3d3e4"}
"""A light colour for execution, reflection and transition, to write on."""
THOUGHT_NAMES = {0: "execution", 1: "reflection", 2: "transition"}
SENTENCES = ("#cfe5f5", "#ffe2a8", "#d3efe3", "#f3d3e4", "#e4e0f4", "#f6d9c8", "#dfe9c3", "#d9dde1")
"""Light colours to tell sentences apart; used in turn."""

_RC: Any = {
    "font.family": "DejaVu Sans",
    "font.size": 9,
    "text.color": INK,
    "axes.edgecolor": SOFT,
    "axes.labelcolor": INK,
    "xtick.color": SOFT,
    "ytick.color": SOFT,
    "svg.fonttype": "path",
    "svg.hashsalt": "skipkv",
}
matplotlib.rcParams.update(_RC)


def figure(height: float | int, width: float | int = 8) -> Figure:
    """An empty figure of so many inches; 8 wide, it is meant to be shown at 800 pixels."""
    made = Figure(figsize=(width, height), facecolor=PAPER)
    FigureCanvasAgg(made)
    return made


def canvas(made: Figure, width: float | int, height: float | int) -> Any:
    """Axes over the whole figure, to draw on: x to the right, y downwards, nothing around."""
    axes = made.add_axes((0, 0, 1, 1))
    axes.set_xlim(0, width)
    axes.set_ylim(height, 0)
    axes.axis("off")
    return axes


def cell(axes: Any, x: float, y: float, w: float, h: float, **style: Any) -> None:
    """A rectangle with its corner at x, y."""
    style = {"facecolor": PAPER, "edgecolor": FAINT, "linewidth": 0.6, **style}
    axes.add_patch(Rectangle((x, y), w, h, **style))


def box(axes: Any, x: float, y: float, w: float, h: float, **style: Any) -> None:
    """A rectangle with round corners."""
    style = {"facecolor": PAPER, "edgecolor": SOFT, "linewidth": 1.0, **style}
    rounding = "round,pad=0,rounding_size=0.06"
    axes.add_patch(FancyBboxPatch((x, y), w, h, boxstyle=rounding, **style))


def save(made: Figure, path: Path) -> None:
    """Write a figure; an SVG without a date, so that the same drawing is the same file."""
    kept = {"Date": None} if path.suffix == ".svg" else {}
    made.savefig(path, dpi=100, facecolor=PAPER, metadata=kept)
