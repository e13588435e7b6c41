"""Escapes names for tables and plots: users choose names, so they may hold any character."""

import html
import re

_MARKDOWN = re.compile(r"([\\|`\[\]])")
_FORMULA = ("=", "+", "-", "@")


def markdown_cell(name: str) -> str:
    r"""A name escaped for a Markdown table: it cannot begin a cell, HTML, a link or a line.

    Args:
        name: the name.

    Example:
        >>> print(markdown_cell("a|b <i>\x1b"))
        a\|b &lt;i&gt;\\x1b
    """
    return _MARKDOWN.sub(r"\\\1", html.escape(_printable(name), quote=False))


def csv_cell(name: str) -> str:
    """A name for a CSV file; one that a spreadsheet would read as a formula gets an apostrophe.

    Args:
        name: the name.

    Example:
        >>> csv_cell("rkv"), csv_cell("=1+1")
        ('rkv', "'=1+1")
    """
    name = _printable(name)
    return f"'{name}" if name.lstrip().startswith(_FORMULA) else name


def plot_label(name: str) -> str:
    r"""A name escaped for a plot, where dollars begin a formula and a first underscore hides it.

    Args:
        name: the name.

    Example:
        >>> print(plot_label("$a"), plot_label("_b"))
        \$a  _b
    """
    name = _printable(name).replace("$", r"\$")
    return f" {name}" if name.startswith("_") else name


def _printable(name: str) -> str:
    """The name with line ends and control characters written as escapes."""
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in name)
