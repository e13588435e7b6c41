"""How a command ends: exit codes, one-line errors, closed pipes."""

import os
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager

import typer

from skipkv.errors import SkipKVError

FAILED = 1
"""Exit code when at least one completion failed."""
BAD_INPUT = 2
"""Exit code when nothing was done because of what was asked for."""
INTERRUPTED = 130
"""Exit code after Ctrl-C, as shells have it."""


@contextmanager
def clean_exit(*, debug: bool) -> Iterator[None]:
    """Turn what may go wrong inside the block into a quiet exit of the command.

    A `SkipKVError` becomes one line on stderr and exit code 2. A reader that stopped reading
    (`skipkv ... | head`) is no failure: exit code 0. Anything else is a bug, here or in the user's
    part, and keeps its traceback.

    Args:
        debug: print the traceback of a `SkipKVError` before its line.
    """
    try:
        yield
        sys.stdout.flush()  # so that a closed pipe shows here and not at interpreter exit
    except SkipKVError as error:
        if debug:
            traceback.print_exc()
        typer.echo(f"skipkv: error: {one_line(error)}", err=True)
        raise typer.Exit(BAD_INPUT) from None
    except BrokenPipeError:
        # The interpreter flushes stdout once more on its way out; let that go nowhere.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise typer.Exit(0) from None


def one_line(error: BaseException) -> str:
    """The error's message on one line."""
    return " ".join(str(error).split())
