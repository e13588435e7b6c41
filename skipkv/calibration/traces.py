"""Traces: what a model wrote for a prompt, kept as JSON lines."""

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import attrs

from skipkv._validators import is_a
from skipkv.errors import InputError


def _ids(values: Iterable[Any]) -> tuple[Any, ...]:
    return tuple(values)


@attrs.frozen(kw_only=True)
class Trace:
    """A prompt and what was decoded after it.

    Args:
        index: number of the question.
        prompt: its token ids.
        tokens: those decoded.
        finished: whether it ended by itself, so that its last thought is whole.
    """

    index: int = attrs.field(validator=is_a(int, least=0))
    prompt: Sequence[int] = attrs.field(converter=_ids, repr=False)
    tokens: Sequence[int] = attrs.field(converter=_ids, repr=False)
    finished: bool = attrs.field(validator=is_a(bool))

    def line(self) -> str:
        """The trace as one line of JSON."""
        return json.dumps(attrs.asdict(self)) + "\n"


class TraceFile:
    """A file of traces that only grows; what a stopped run left half written is cut off.

    Args:
        path: of the file; it need not be there yet.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self.traces: dict[int, Trace] = {}
        whole = 0
        lines = path.read_bytes().splitlines(keepends=True) if path.exists() else []
        for number, raw in enumerate(lines, start=1):
            try:
                trace = Trace(**json.loads(raw))
            except (ValueError, TypeError) as cause:
                if number == len(lines) and not raw.endswith(b"\n"):
                    break
                raise InputError(
                    f"{path}:{number}: not a trace as calibration writes them. Delete the file to "
                    "generate its traces anew."
                ) from cause
            if not raw.endswith(b"\n"):
                break
            self.traces[trace.index] = trace
            whole += len(raw)
        if lines and whole < path.stat().st_size:
            with path.open("r+b") as file:
                file.truncate(whole)

    def add(self, trace: Trace) -> None:
        """Append a trace; it is on the disk when this returns."""
        with self._path.open("a") as file:
            file.write(trace.line())
        self.traces[trace.index] = trace


def read_completions(path: str, *, text: str = "text") -> list[tuple[str, bool]]:
    """What was written for each prompt, from JSON lines such as `skipkv generate --json` prints.

    Args:
        path: of the file.
        text: field with what was written.

    Returns:
        Per line the text, and whether it ended by itself: false where a field `stop_reason` says
        something else than "eos" or "stop_string".

    Raises:
        InputError: an unreadable file, or a line without the field.
    """
    try:
        raw = Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as cause:
        raise InputError(f"Cannot read the traces {path!r}: {cause}") from cause
    found = []
    for number, line in enumerate(raw.split("\n"), start=1):
        if not line.strip():
            continue
        try:
            record = json.loads(line)
        except ValueError as cause:
            raise InputError(f"{path}:{number}: not JSON ({cause}).") from cause
        if not isinstance(record, dict) or not isinstance(record.get(text), str):
            raise InputError(
                f"{path}:{number}: must be an object with the text of a trace in field {text!r}."
            )
        found.append((record[text], record.get("stop_reason", "eos") in ("eos", "stop_string")))
    return found
