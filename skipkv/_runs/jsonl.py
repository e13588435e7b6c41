"""Lines of text and JSON from users' files; an error names the file and the line."""

import json
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from skipkv.errors import InputError


def lines(file: Iterable[bytes], name: str) -> Iterator[tuple[str, str]]:
    """Every line that is not blank, after its place `file:line`.

    Raises:
        InputError: a line is not UTF-8.
    """
    # Bytes are decoded line by line: an error has a line number then, and only real line ends
    # separate lines (str.splitlines would also cut at characters that JSON allows within a string).
    for number, raw in enumerate(file, start=1):
        place = f"{name}:{number}"
        try:
            line = raw.decode("utf-8-sig" if number == 1 else "utf-8")
        except UnicodeDecodeError as error:
            raise InputError(
                f"{place}: not UTF-8 text ({error.reason}). Convert the file."
            ) from error
        if line.strip():
            yield place, line.rstrip("\r\n")


def objects(file: Iterable[bytes], name: str) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """The JSON object of every line that is not blank, after its place `file:line`.

    Raises:
        InputError: a line is not UTF-8, not JSON, not an object, or holds half of a character.
    """
    for place, line in lines(file, name):
        try:
            record = parsed(line)
        except ValueError as error:
            raise InputError(
                f"{place}: not JSON ({error}). A .jsonl file has an object per line."
            ) from error
        if not isinstance(record, Mapping):
            raise InputError(f"{place}: must be a JSON object, got {kind(record)}.")
        try:
            json.dumps(record, ensure_ascii=False).encode()
        except UnicodeEncodeError as error:
            raise InputError(
                f"{place}: {error.object[error.start]!a} is half of a pair and no character. "
                "The text was cut inside a character, or read with the wrong encoding."
            ) from error
        yield place, record


def parsed(text: str | bytes) -> Any:
    """The value of a JSON text; a byte order mark at its beginning is ignored.

    Args:
        text: the JSON; bytes are UTF-8.

    Raises:
        ValueError: it is not JSON, not UTF-8, nested too deeply, or an object has a name twice, of
            which Python's reader would drop the first without a word.
    """
    try:
        return json.loads(
            text.decode("utf-8-sig") if isinstance(text, bytes) else text,
            object_pairs_hook=_once_each,
        )
    except RecursionError:
        raise ValueError("nested too deeply") from None


def _once_each(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object with these fields, each of which must come once."""
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in found if names.count(name) > 1)
        raise ValueError(f"an object has {twice!r} twice")
    return found


def kind(value: object) -> str:
    """JSON's name for the type of `value`, with its article."""
    kinds = {
        dict: "an object",
        list: "a list",
        str: "a string",
        bool: "a boolean",
        type(None): "null",
    }
    return kinds.get(type(value), "a number")
