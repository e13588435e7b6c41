"""Text for people: on a terminal its control characters are shown, and not obeyed."""

import re
import sys

# C0 without newline and tab, DEL, and C1: with these a text can rename the window, clear the
# screen or fill the clipboard.
_CONTROLS = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")


def visible(text: str) -> str:
    r"""The text with every control character but newline and tab written as its code.

    Example:
        >>> print(visible("\x1b[2Jgone"))
        \x1b[2Jgone
    """
    return _CONTROLS.sub(lambda found: f"\\x{ord(found[0]):02x}", text)


def put(text: str) -> None:
    """Print a line on stdout: as it is into a pipe or a file, `visible` on a terminal."""
    # Not typer.echo, which drops colour codes on the way into a pipe.
    print(visible(text) if sys.stdout.isatty() else text)
