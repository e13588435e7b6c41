"""A file of frozen values, one per line of JSON, that outlives the process that writes it."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any, Generic, TypeVar

import attrs

from skipkv.errors import InputError

R = TypeVar("R")


def read_lines(path: Path, kind: type[R]) -> tuple[list[R], int]:
    """The values of a file, and how many bytes of it they take.

    A process that was killed may leave half a line behind; it counts for nothing.

    Args:
        path: the file; one that is not there holds nothing.
        kind: the attrs class of the values.

    Raises:
        InputError: a line before the last is no such value.
    """
    if not path.exists():
        return [], 0
    fields = {field.name for field in attrs.fields(kind)}  # type: ignore[arg-type]
    values, good = [], 0
    with path.open("rb") as file:
        lines = list(file)
    for number, line in enumerate(lines, start=1):
        try:
            if not line.endswith(b"\n"):
                raise ValueError("torn")
            values.append(_value(json.loads(line), kind, fields))
        except (ValueError, TypeError) as error:
            if number == len(lines):
                break
            raise InputError(
                f"{path}:{number} is no record of this version ({error}). Move the file away to "
                "start anew."
            ) from error
        good += len(line)
    return values, good


def _value(found: Any, kind: type[R], fields: set[str]) -> R:
    if not isinstance(found, dict) or not set(found) <= fields:
        raise ValueError("unknown fields")
    return kind(**found)


class LineFile(Generic[R]):
    """The values of a file, opened to add to them.

    Opening cuts off a torn last line. Every value is handed to the operating system before `add`
    returns, so that it outlives the process, killed or not.
    """

    def __init__(self, path: Path, kind: type[R]) -> None:
        self.path = path
        self.records, good = read_lines(path, kind)
        self._file: IO[bytes] = path.open("ab")
        self._file.truncate(good)

    def __iter__(self) -> Iterator[R]:
        return iter(self.records)

    def add(self, record: R) -> None:
        """Write one more."""
        line = json.dumps(attrs.asdict(record)) + "\n"  # type: ignore[arg-type]
        self._file.write(line.encode())
        self._file.flush()
        self.records.append(record)

    def close(self) -> None:
        """Nothing more to add."""
        self._file.close()
