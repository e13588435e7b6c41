"""A file of frozen values, one per line of JSON; a killed process loses none it has added."""

import json
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, Generic, TypeVar

import attrs

from skipkv._runs.disk import writing
from skipkv._runs.jsonl import parsed
from skipkv.errors import InputError

R = TypeVar("R")


def read_lines(path: Path, kind: type[R]) -> tuple[list[R], int]:
    """The values of a file, and the number of bytes they take.

    A process that was killed may leave half a line at the end, which is ignored.

    Args:
        path: the file; a file that does not exist has no values.
        kind: the attrs class of the values.

    Raises:
        InputError: the file cannot be read, or a whole line is not such a value.
    """
    fields = {field.name for field in attrs.fields(kind)}  # type: ignore[arg-type]
    values, good = [], 0
    try:
        with path.open("rb") as file:
            lines = list(file)
    except FileNotFoundError:
        return [], 0
    except OSError as error:
        raise InputError(f"Cannot read {path}: {error.strerror}.") from error
    for number, line in enumerate(lines, start=1):
        if not line.endswith(b"\n"):
            break
        if line.strip():
            try:
                values.append(_value(parsed(line), kind, fields))
            except (ValueError, TypeError) as error:
                raise InputError(
                    f"{path}:{number} is not a record of this version ({error}). Move the file "
                    "away to start again."
                ) from error
        good += len(line)
    return values, good


def _value(found: Any, kind: type[R], fields: set[str]) -> R:
    if not isinstance(found, dict) or not set(found) <= fields:
        raise ValueError("unknown fields")
    return kind(**found)


class LineFile(Generic[R]):
    """The values of a file, opened for adding values.

    Opening removes half a line at the end. `add` returns after the operating system has the value,
    so that it survives when the process is killed.

    Args:
        path: the file; it is made if it does not exist.
        kind: the attrs class of the values.

    Raises:
        InputError: a whole line is not such a value, or the file cannot be written.
    """

    def __init__(self, path: Path, kind: type[R]) -> None:
        self.path = path
        self.records, self._size = read_lines(path, kind)
        with writing(path):
            # without a buffer: closing the file must not repeat a write that failed
            self._file = path.open("ab", buffering=0)
            self._file.truncate(self._size)

    def __iter__(self) -> Iterator[R]:
        return iter(self.records)

    def add(self, record: R) -> None:
        """Write one more value.

        Args:
            record: the value.

        Raises:
            InputError: it cannot be written, for example on a full disk; the file is unchanged.
        """
        line = (json.dumps(attrs.asdict(record)) + "\n").encode()  # type: ignore[arg-type]
        with writing(self.path):
            try:
                rest = line
                while rest:
                    rest = rest[self._file.write(rest) :]
            except OSError:
                with suppress(OSError):
                    self._file.truncate(self._size)
                raise
        self._size += len(line)
        self.records.append(record)

    def keep(self, records: list[R]) -> None:
        """Replace the content of the file with these values, atomically.

        Args:
            records: the values that stay.

        Raises:
            InputError: it cannot be written.
        """
        draft = self.path.with_name(f"{self.path.name}.new")
        with writing(draft):
            lines = (json.dumps(attrs.asdict(record)) + "\n" for record in records)  # type: ignore[arg-type]
            draft.write_text("".join(lines))
            draft.replace(self.path)
            self._file.close()
            self._file = self.path.open("ab", buffering=0)
        self.records, self._size = list(records), self.path.stat().st_size

    def close(self) -> None:
        """Close the file."""
        self._file.close()
