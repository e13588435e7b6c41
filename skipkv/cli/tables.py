"""Markdown tables on a terminal: narrowed to its width, columns aligned."""

import re
import shutil
import sys
import textwrap
from collections.abc import Sequence
from pathlib import Path

from skipkv.cli.terminal import put, visible

_GAP = "  "
_LEAST = 60
_BRACKETS = re.compile(r" In brackets: [^.]*\.")


def put_summary(markdown: str, file: Path, *, minor: Sequence[str] = ()) -> None:
    """Print a summary: `narrowed` on a terminal, else as it is.

    Args:
        markdown: the summary.
        file: where it is written in full.
        minor: as for `narrowed`.
    """
    if sys.stdout.isatty():
        # visible first: a code is wider than its character
        markdown = (
            f"{narrowed(visible(markdown), minor=minor)}\n\nAll columns and intervals: {file}"
        )
    put(markdown)


def narrowed(markdown: str, *, minor: Sequence[str] = (), width: int | None = None) -> str:
    """Markdown as plain text of at most `width` columns.

    Numbers lose the interval in brackets after them, and the text loses its sentence about those,
    which begins "In brackets:". A table that is still too wide loses columns:
    first the minor ones, in their order, then those at its right end.

    Args:
        markdown: text with tables.
        minor: parts of the headings of columns to leave out first.
        width: in columns; by default that of the terminal.

    Example:
        >>> table = "| a | b c | d |\\n|---|--:|--:|\\n| x | 1.5 [1, 2] | 7 |"
        >>> print(narrowed(table, minor=["d"], width=8))
        a  b c
        ------
        x  1.5
    """
    width = width or max(_LEAST, shutil.get_terminal_size().columns)
    parts = []
    for block in markdown.strip().split("\n\n"):
        lines = block.splitlines()
        if lines[0].startswith("|"):
            parts.append(_table(lines, minor, width))
        else:
            lines = [_BRACKETS.sub("", line) for line in lines]
            parts.append("\n".join(textwrap.fill(line, width) for line in lines))
    return "\n\n".join(parts)


def _table(lines: Sequence[str], minor: Sequence[str], width: int) -> str:
    rows = [_cells(line) for line in (lines[0], *lines[2:])]
    right = [mark.endswith(":") for mark in _cells(lines[1])]
    droppable = [i for part in minor for i, head in enumerate(rows[0]) if part in head]
    droppable += reversed(range(2, len(rows[0])))
    kept = list(range(len(rows[0])))
    for column in droppable:
        if _width(rows, kept) <= width:
            break
        if column in kept:
            kept.remove(column)
    sizes = [_size(rows, column) for column in kept]
    sizes[0] -= max(0, _width(rows, kept) - width)

    def written(cells: Sequence[str]) -> str:
        shown = []
        for column, cell, size in zip(kept, cells, sizes, strict=True):
            cell = cell if len(cell) <= size else cell[: size - 3] + "..."
            shown.append(cell.rjust(size) if right[column] else cell.ljust(size))
        return _GAP.join(shown).rstrip()

    heads = [textwrap.wrap(rows[0][c], size) for c, size in zip(kept, sizes, strict=True)]
    tall = max(map(len, heads))
    heads = [[""] * (tall - len(head)) + head for head in heads]
    body = [written([row[column] for column in kept]) for row in rows[1:]]
    top = [written(line) for line in zip(*heads, strict=True)]
    return "\n".join([*top, "-" * min(width, _width(rows, kept)), *body])


def _cells(line: str) -> list[str]:
    """The cells of a table's line, without intervals."""
    cells = re.split(r"(?<!\\)\|", line.strip().strip("|"))
    return [re.sub(r" \[[^]]*\]$", "", cell.strip()).replace("\\|", "|") for cell in cells]


def _size(rows: Sequence[Sequence[str]], column: int) -> int:
    words = rows[0][column].split()
    return max(len(text) for text in [*words, *(row[column] for row in rows[1:])])


def _width(rows: Sequence[Sequence[str]], columns: Sequence[int]) -> int:
    return sum(_size(rows, column) for column in columns) + len(_GAP) * (len(columns) - 1)
