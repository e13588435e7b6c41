"""Errors of the disk as `InputError`: found before a run where possible, else when they happen."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryFile

from skipkv.errors import InputError


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turn the operating system's error inside the block into an `InputError`.

    Args:
        path: the file that is written, for the message.

    Raises:
        InputError: it cannot be written, for example on a full disk.
    """
    try:
        yield
    except OSError as error:
        raise InputError(
            f"Cannot write {path}: {_reason(error)}. What was written before is kept. Make room, "
            "or choose another place."
        ) from error


def check_writable(folder: Path, names: tuple[str, ...] = ()) -> None:
    """Raise unless files can be written in a folder. The check leaves no file.

    Args:
        folder: the folder; if it does not exist, it must be possible to make it.
        names: files that will be written in it.

    Raises:
        InputError: the folder is a file, or it or one of these files cannot be written.
    """
    place = folder.absolute()
    try:
        while not place.exists():
            place = place.parent
        if not place.is_dir():
            raise InputError(
                f"{folder} cannot be a folder: {place} is a file. Choose another folder."
            )
        with TemporaryFile(dir=place):
            pass
        for name in names:
            place = folder / name
            if place.is_dir():
                raise InputError(
                    f"{place} is a folder, but a file must be written there. Choose another "
                    "folder, or move that one away."
                )
            if place.exists():
                place.open("ab").close()
    except OSError as error:
        raise InputError(
            f"Cannot write in {place}: {_reason(error)}. Choose another folder."
        ) from error


def _reason(error: OSError) -> str:
    return error.strerror or str(error)
