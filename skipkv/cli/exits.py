"""How a command ends: exit codes, one-line errors, closed pipes."""

import errno
import logging
import os
import signal
import sys
import threading
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NoReturn

import typer

from skipkv.cli.terminal import visible
from skipkv.errors import SkipKVError

FAILED = 1
"""Exit code when at least one completion failed."""
BAD_INPUT = 2
"""Exit code when the input, a file or an option could not be used."""
INTERRUPTED = 130
"""Exit code after Ctrl-C, as shells have it."""
_INTERRUPTED = "\nskipkv: interrupted.\n"

# a disk that is full, or not writable any more
_DISK = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EIO}


@contextmanager
def clean_exit(*, debug: bool) -> Iterator[None]:
    """Turn what may go wrong inside the block into a quiet exit of the command.

    A `SkipKVError` becomes one line on stderr and exit code 2, and so does an error of the
    operating system: a full disk, a missing right. A closed pipe (`skipkv ... | head`) is not an
    error: exit code 0. Ctrl-C is one line and exit code 130. Anything else is a bug, here or in the
    user's part, and keeps its traceback.

    Args:
        debug: print the traceback of an error before its line.
    """
    try:
        with _brief_hub():
            yield
        sys.stdout.flush()  # so that a closed pipe shows here and not at interpreter exit
    except SkipKVError as error:
        raise _ended(error, one_line(error), debug=debug) from None
    except KeyboardInterrupt:
        typer.echo(_INTERRUPTED, err=True, nl=False)
        raise typer.Exit(INTERRUPTED) from None
    except BrokenPipeError:
        _discard_stdout()
        raise typer.Exit(0) from None
    except OSError as error:
        try:
            sys.stdout.flush()
        except OSError:
            _discard_stdout()
        line = f"{one_line(error)} (--debug shows where)"
        if error.errno in _DISK:
            written = error.filename or "the output"
            line = f"Cannot write {written}: {error.strerror}. Make room and start again."
        raise _ended(error, visible(line), debug=debug) from None


@contextmanager
def loading() -> Iterator[None]:
    """While modules and models are loaded, Ctrl-C ends the process at once.

    As an exception it would not do so: C code of torch and numpy that imports Python modules loses
    a KeyboardInterrupt, aborts, or turns it into an error of its own.
    """
    if threading.current_thread() is not threading.main_thread():  # where signals cannot be set
        yield
        return
    before = signal.signal(signal.SIGINT, _leave)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _leave(*_: object) -> NoReturn:
    os.write(2, _INTERRUPTED.encode())
    os._exit(INTERRUPTED)


@contextmanager
def resumable(folder: Path) -> Iterator[None]:
    """Say after Ctrl-C that what is done is kept.

    Args:
        folder: where it is.
    """
    try:
        yield
    except KeyboardInterrupt:
        typer.echo(
            f"\nskipkv: interrupted; what is done is in {visible(str(folder))}. The same command "
            "goes on from there.",
            err=True,
        )
        raise typer.Exit(INTERRUPTED) from None


def one_line(error: BaseException) -> str:
    """The error's message on one line, without control characters."""
    return visible(" ".join(str(error).split()))


def _ended(error: BaseException, line: str, *, debug: bool) -> typer.Exit:
    if debug:
        traceback.print_exception(error)
    typer.echo(f"skipkv: error: {line}", err=True)
    return typer.Exit(BAD_INPUT)


def _discard_stdout() -> None:
    """The interpreter flushes stdout once more on its way out; let that go nowhere."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


@contextmanager
def _brief_hub() -> Iterator[None]:
    """While the model hub does not answer, print one line; its client prints two per attempt."""
    said = False

    def brief(record: logging.LogRecord) -> bool:
        nonlocal said
        message = record.getMessage()
        if "thrown while requesting" not in message and "Retrying in" not in message:
            return True
        if not said:
            typer.echo(
                "skipkv: the model hub does not answer. Trying again for up to a minute.", err=True
            )
        said = True
        return False

    logger = logging.getLogger("huggingface_hub.utils._http")
    logger.addFilter(brief)
    try:
        yield
    finally:
        logger.removeFilter(brief)
