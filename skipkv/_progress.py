"""Progress on stderr: a bar on a terminal, a line now and then in a log."""

import sys
import time
from collections.abc import Iterable
from typing import Any

from tqdm.auto import tqdm as bar_for_people
from tqdm.std import tqdm

SECONDS = 30
"""Between two lines, where stderr is not a terminal."""
_LINE = "{desc}{n_fmt}/{total_fmt} {unit}s [{elapsed}<{remaining}]"


def progress_bar(show: bool | None, items: Iterable[Any] | None = None, **options: Any) -> Any:
    """A progress bar of tqdm.

    Args:
        show: draw a bar, or show nothing; None draws a bar on a terminal, and elsewhere prints a
            line every `SECONDS`.
        items: what to iterate over, if anything.
        options: those of tqdm, such as `total`.

    Example:
        >>> list(progress_bar(False, [1, 2], unit="run"))
        [1, 2]
    """
    stream = sys.stderr
    if show is None and stream is not None and not stream.isatty():
        return tqdm(items, file=_Lines(stream), bar_format=_LINE, **options)
    hidden = show is False or stream is None
    return bar_for_people(items, file=stream, disable=hidden, **options)


class _Lines:
    """What tqdm writes to: passes on the newest state of a bar now and then, as a line."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream
        self._last = time.monotonic()

    def write(self, text: str) -> None:
        state = text.strip()
        if state and time.monotonic() - self._last >= SECONDS:
            self._last = time.monotonic()
            self._stream.write(f"{state}\n")
            self._stream.flush()

    def flush(self) -> None:
        """Lines are flushed as they are written."""
