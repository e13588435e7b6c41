"""A run's folder: what it was started with in `run.json`, and a lock while it is at work."""

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import attrs

from skipkv._runs.disk import check_writable, writing
from skipkv._runs.identity import differs
from skipkv._runs.jsonl import parsed
from skipkv.errors import InputError

RUN, RECORDS = "run.json", "records.jsonl"
_FORMAT = 1


def _path(value: str | Path) -> Path:
    return Path(value)


@attrs.frozen
class RunFolder:
    """The folder of one command's run.

    Args:
        path: the folder; it need not be there yet.
        command: whose run it is: "eval", "bench" or "calibrate".
        records: the file with what the run made.
        outputs: other files that the command writes there.
        holds: keys that `run.json` has beside `settings`, and the types of their values.
    """

    path: Path = attrs.field(converter=_path)
    command: str
    records: str = RECORDS
    outputs: tuple[str, ...] = ()
    holds: Mapping[str, type] = attrs.field(factory=dict)

    def read(self) -> dict[str, Any] | None:
        """What `run.json` holds; None where there is none.

        Raises:
            InputError: it cannot be read, it is another command's, or there are records and no
                `run.json` that says what they are of.
        """
        path = self.path / RUN
        try:
            run = parsed(path.read_bytes())
        except FileNotFoundError:
            if (self.path / self.records).exists():
                raise InputError(
                    f"{self.path} holds {self.records}, but no {RUN} that says what was asked for. "
                    "Move it away, or choose another folder."
                ) from None
            return None
        except (OSError, ValueError) as error:
            raise InputError(
                f"{path} cannot be read ({error}). Move the folder away to start anew."
            ) from error
        if not isinstance(run, dict) or run.get("format") != _FORMAT:
            raise InputError(f"{path} is of another version of skipkv. Choose another folder.")
        other = run.get("command", self.command)
        if other != self.command:
            raise InputError(
                f"{self.path} is the folder of a `skipkv {other}`, not of a `skipkv "
                f"{self.command}`. Choose another folder."
            )
        for key, kind in {"settings": dict, **self.holds}.items():
            if not isinstance(run.get(key), kind):
                raise InputError(
                    f"{path} is not as `skipkv {self.command}` writes it: {key!r} is missing or "
                    "damaged. Choose another folder."
                )
        return run

    def write(self, run: Mapping[str, Any]) -> None:
        """Write `run.json`, whole or not at all.

        Args:
            run: `settings` and what else is to be kept.

        Raises:
            InputError: it cannot be written.
        """
        path, draft = self.path / RUN, self.path / f"{RUN}.new"
        whole = {"format": _FORMAT, "command": self.command, **run}
        with writing(path):
            draft.write_text(json.dumps(whole, indent=2) + "\n")
            os.replace(draft, path)

    def check(self, settings: Mapping[str, Any]) -> None:
        """Raise unless a run with these settings can begin, or go on, in the folder.

        Two runs must agree in all settings they both have. What one of them lacks was not measured
        then, or is not known yet, and can do no harm.

        Args:
            settings: all that decides what the run makes.

        Raises:
            InputError: the folder or a file in it cannot be written, or the settings differ from
                those of the run that is there; the message says in what.
        """
        check_writable(self.path, (RUN, self.records, "lock", *self.outputs))
        then = self.read()
        if then is None:
            return
        now = json.loads(json.dumps(settings))  # tuples become lists, as they did in the file
        different = list(_differences(then["settings"], now, ""))
        if different:
            raise InputError(
                f"{self.path} holds a run with other settings: {'; '.join(different)}. Repeat "
                "those, or choose another folder."
            )

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Make the folder and keep other processes out of it; the lock goes with the process.

        Raises:
            InputError: another process is at work there.
        """
        with writing(self.path):
            self.path.mkdir(parents=True, exist_ok=True)
            file = (self.path / "lock").open("w")
        with file:
            try:
                import fcntl
            except ImportError:  # Windows: two runs in one folder are the user's to avoid
                yield
                return
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                raise InputError(
                    f"{self.path} is in use by another run ({error.strerror}). Wait for it, or "
                    "choose another folder."
                ) from error
            yield


# what people call the digests, which say nothing to them
_DIGESTS = {
    "content": "its problems differ (another file, --limit or --seed)",
    "prompts": "its prompts differ (other questions, tokenizer or chat template)",
    "weights": "the weights differ",
    "traces": "the traces it was given differ",
}


def _differences(then: Mapping[str, Any], now: Mapping[str, Any], at: str) -> Iterator[str]:
    for key in now:
        if key not in then or then[key] == now[key]:
            continue
        both = isinstance(now[key], Mapping) and isinstance(then[key], Mapping)
        if both and "composition" in now[key] and "composition" in then[key]:
            if changed := differs(then[key], now[key]):
                yield f"{at}{key}: {changed}"
        elif both:
            yield from _differences(then[key], now[key], f"{at}{key} ")
        elif key in _DIGESTS:
            yield f"{at.strip()}: {_DIGESTS[key]}" if at else _DIGESTS[key]
        else:
            yield f"{at}{key} was {then[key]!r} and is {now[key]!r}"
