"""The segmenter's figure: a trace of the embedded model, cut into sentences."""

from typing import Any

import runs
from style import FAINT, INK, PAPER, SOFT, THOUGHT_NAMES, THOUGHTS, canvas, cell, figure

from skipkv import TokenStream, presets
from skipkv.segmenters import Newline

FIRST, UPTO = 69, 172
"""The stretch shown: from the first decoded token on, and not to the end of a sentence."""


def draw() -> Any:
    """One line per sentence: its positions, its tokens, its thought."""
    pieces, _ = runs.decode(presets.full())
    stream = TokenStream.from_pieces(pieces[FIRST:UPTO])
    cuts = list(Newline().cut(stream))
    ends = [0, *(cut.end for cut in cuts), len(stream)]
    rows = len(ends) - 1
    top, line = 0.62, 0.37
    height = top + rows * line + 0.62
    made = figure(height)
    axes = canvas(made, 8, height)
    heads = [(0.12, "sentence"), (0.92, "positions"), (1.85, "tokens of the stream")]
    for x, text in [*heads, (6.95, "thought")]:
        axes.text(x, 0.3, text, color=SOFT, va="center")
    axes.plot([0.1, 7.9], [0.47, 0.47], color=FAINT, linewidth=0.8)
    for row in range(rows):
        start, end = ends[row], ends[row + 1]
        y = top + row * line
        closed = row < len(cuts)
        thought = int(cuts[row].thought) if closed else None
        axes.text(0.3, y + 0.13, str(row) if closed else "open", va="center")
        place = f"{FIRST + start} \N{EN DASH} {FIRST + end - 1}"
        axes.text(0.92, y + 0.13, place, va="center", color=SOFT)
        x = 1.85
        for index in range(start, end):
            text = stream.pieces[index].replace("\n", "↵")
            width = 0.1 + 0.066 * len(text)
            last = closed and index == end - 1
            colour = PAPER if thought is None else THOUGHTS[thought]
            cell(axes, x, y, width, 0.26, facecolor=colour, edgecolor=PAPER if closed else FAINT)
            axes.text(
                x + width / 2, y + 0.135, text, ha="center", va="center", fontsize=7.5,
                family="DejaVu Sans Mono", fontweight="bold" if last else "normal",
            )  # fmt: skip
            x += width
            if last:
                axes.plot([x + 0.03] * 2, [y - 0.03, y + 0.29], color=INK, linewidth=2)
        name = THOUGHT_NAMES[thought] if thought is not None else "not known yet"
        axes.text(6.95, y + 0.13, name, va="center")
    y = top + rows * line + 0.22
    axes.plot([0.2, 0.2], [y - 0.12, y + 0.12], color=INK, linewidth=2)
    axes.text(
        0.32, y, "a cut, behind the token that closes the sentence (↵ is a newline). The open "
        "sentence waits for its end:\nit comes first in the stream of the next call.",
        va="center", fontsize=8.5,
    )  # fmt: skip
    return made
