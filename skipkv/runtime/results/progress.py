"""A bar on stderr that counts completions."""

import sys
from typing import Any

from tqdm.auto import tqdm

from skipkv.runtime.results.completion import Completion
from skipkv.runtime.results.observers import Observer


class Progress(Observer):
    """A progress bar: one step per completion. It appears when decoding begins.

    Args:
        total: completions to come; None where that is unknown.
    """

    def __init__(self, total: int | None) -> None:
        self._total = total
        self._bar: Any = None

    def on_resume(self) -> None:
        """Show the bar."""
        if self._bar is None:
            self._bar = tqdm(total=self._total, unit="seq", file=sys.stderr)

    def on_completion(self, completion: Completion) -> None:
        """Count one."""
        self.on_resume()
        self._bar.update()

    def close(self) -> None:
        """Leave the bar as it is."""
        if self._bar is not None:
            self._bar.close()
