"""Traces: what a model wrote for a prompt, stored as JSON lines."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import attrs

from skipkv._runs.jsonl import objects
from skipkv._validators import is_a
from skipkv.errors import InputError


def _ids(values: Iterable[Any]) -> tuple[Any, ...]:
    return tuple(values)


_ALL_IDS = attrs.validators.deep_iterable(is_a(int, least=0))


@attrs.frozen(kw_only=True)
class Trace:
    """A prompt and what was decoded after it.

    Args:
        index: number of the question.
        prompt: token ids of the prompt.
        tokens: token ids of what was decoded.
        finished: whether the trace ended by itself, so that its last thought is complete.
    """

    index: int = attrs.field(validator=is_a(int, least=0))
    prompt: Sequence[int] = attrs.field(converter=_ids, validator=_ALL_IDS, repr=False)
    tokens: Sequence[int] = attrs.field(converter=_ids, validator=_ALL_IDS, repr=False)
    finished: bool = attrs.field(validator=is_a(bool))


def read_completions(path: str, *, text: str = "text") -> list[tuple[str, bool]]:
    """Read completions from JSON lines such as `skipkv generate --json` prints.

    Args:
        path: path of the file.
        text: name of the field with the text.

    Returns:
        Per line the text, and whether it ended by itself: false if the line has a `stop_reason`
        other than "eos" or "stop_string".

    Raises:
        InputError: an unreadable file, or a line without the field.
    """
    found = []
    try:
        with Path(path).open("rb") as file:
            for place, record in objects(file, path):
                if not isinstance(record.get(text), str):
                    raise InputError(
                        f"{place}: must be an object with the text of a trace in field {text!r}."
                    )
                ended = record.get("stop_reason", "eos") in ("eos", "stop_string")
                found.append((record[text], ended))
    except OSError as cause:
        raise InputError(f"Cannot read the traces {path!r}: {cause}") from cause
    return found
