"""The steerer's figure: a decoded trace, where it was pushed and how hard."""

from pathlib import Path
from typing import Any

import runs
from style import BLUE, FAINT, GREEN, ORANGE, PAPER, SOFT, THOUGHTS, figure

import skipkv.tiny
from skipkv import TokenStream, presets
from skipkv.segmenters import Newline
from skipkv.steerers import AdaptiveSteerer, SteeringVector

STRENGTH, GROWTH, BUDGET, INTERVAL = 0.3, 0.05, 270, 32


def recorded() -> tuple[list[str], Any, list[dict[str, Any]]]:
    """Pieces, completion and what the steerer saw at each step."""
    file = Path(skipkv.tiny.__file__).parent / "weights" / "steering.safetensors"
    steerer = runs.SeeingSteerer(
        AdaptiveSteerer(SteeringVector.load(file), strength=STRENGTH, growth=GROWTH)
    )
    policy = presets.skipkv(BUDGET, interval=INTERVAL, threshold=0.7, steering=steerer)
    pieces, completion = runs.decode(policy)
    return pieces, completion, steerer.seen


def draw() -> Any:
    """Thoughts over positions, and below them the strength at each delimiter."""
    pieces, completion, seen = recorded()
    prompt = completion.prompt_tokens
    made = figure(4.0)
    axes = made.add_axes((0.1, 0.27, 0.87, 0.5))
    vector = STRENGTH, GROWTH
    norm = float(max(abs(step["push"]) for step in seen))
    strengths = [
        (s["position"], vector[0] + vector[1] * sum(s["thoughts"][1:]))
        for s in seen
        if s["delimiter"] and s["thinking"]
    ]
    unit = norm / max(value for _, value in strengths)
    pushed = [(s["position"], s["push"] / unit) for s in seen if abs(s["push"]) > 0]
    idle = [s["position"] for s in seen if s["delimiter"] and not s["thinking"]]
    last = len(pieces) - 1
    top = 1.28 * max(value for _, value in pushed)
    end = next(s["position"] for s in seen if not s["thinking"])
    axes.axvspan(0, prompt, color="#eeeeee", linewidth=0)
    axes.axvspan(end, last, color="#eeeeee", linewidth=0)
    for position, value in pushed:
        axes.plot([position] * 2, [0, value], color=BLUE, linewidth=1.6)
    axes.plot(*zip(*pushed, strict=True), "o", color=BLUE, markersize=4.5)
    axes.plot(idle, [0] * len(idle), "x", color=ORANGE, markersize=7, markeredgewidth=2,
              clip_on=False, zorder=5)  # fmt: skip
    steps, values = zip(*strengths, strict=True)
    axes.plot(steps, values, drawstyle="steps-post", color=FAINT, linewidth=1, zorder=0)
    for event in range(INTERVAL, last, INTERVAL):
        if event > prompt:
            axes.axvline(event, color=GREEN, linewidth=0.9, linestyle=(0, (3, 3)), zorder=0)
    axes.set_xlim(0, last + 3)
    axes.set_ylim(0, top)
    axes.set_xlabel("position")
    axes.set_ylabel("strength")
    axes.spines[["top", "right"]].set_visible(False)
    axes.text(prompt / 2, 0.93 * top, "prompt", ha="center", color=SOFT)
    axes.text(last + 3, 0.93 * top, "answer", ha="right", color=SOFT)

    band = made.add_axes((0.1, 0.8, 0.87, 0.07))
    start = 0
    for cut in Newline().cut(TokenStream.from_pieces(pieces)):
        colour = THOUGHTS[int(cut.thought)]
        band.axvspan(start, cut.end, color=colour, linewidth=0)
        band.axvline(cut.end, color=PAPER, linewidth=1.2)
        start = cut.end
    band.set_xlim(0, last + 3)
    band.set_xticks([])
    band.set_yticks([])
    band.spines[:].set_visible(False)
    made.text(0.1, 0.905, "sentences:", va="center")
    places = ((0.2, 0, "execution"), (0.34, 1, "reflection"), (0.48, 2, "transition"))
    for x, thought, name in places:
        made.text(
            x, 0.905, name, va="center",
            bbox={"facecolor": THOUGHTS[thought], "edgecolor": "none", "pad": 2.5},
        )  # fmt: skip
    keys = [
        (0.1, "o", BLUE, "a push: an empty line while thinking"),
        (0.46, "x", ORANGE, "an empty line after </think>: no push"),
    ]
    legend = made.add_axes((0, 0, 1, 0.14))
    legend.set_xlim(0, 1)
    legend.set_ylim(-0.15, 0.9)
    legend.axis("off")
    for x, marker, colour, text in keys:
        legend.plot([x], [0.66], marker, color=colour, markersize=6, markeredgewidth=2)
        legend.text(x + 0.018, 0.66, text, va="center", fontsize=8.5)
    legend.plot([0.083, 0.113], [0.24] * 2, color=GREEN, linewidth=0.9, linestyle=(0, (3, 3)))
    legend.text(
        0.118, 0.24, f"an event every {INTERVAL} steps: there the counts of thoughts are "
        "refreshed, and the strength grows", va="center", fontsize=8.5,
    )  # fmt: skip
    return made
