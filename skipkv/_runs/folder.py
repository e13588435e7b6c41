"""A run's folder: the run's settings in `run.json`, and a lock while the run is in progress."""

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
        path: the folder; it need not exist yet.
        command: the command of the run: "eval", "bench" or "calibrate".
        records: the name of the file with the run's records.
        outputs: other files that the command writes there.
        holds: keys that `run.json` has beside `settings`, and the types of their values.
    """

    path: Path = attrs.field(converter=_path)
    command: str
    records: str = RECORDS
    outputs: tuple[str, ...] = ()
    holds: Mapping[str, type] = attrs.field(factory=dict)

    def read(self) -> dict[str, Any] | None:
        """The content of `run.json`; None if it does not exist.

        Raises:
            InputError: it cannot be read, it belongs to another command, or the folder has records
                but no `run.json`.
        """
        path = self.path / RUN
        try:
            run = parsed(path.read_bytes())
        except FileNotFoundError:
            if (self.path / self.records).exists():
                raise InputError(
                    f"{self.path} holds {self.records}, but no {RUN} with the settings they were "
                    "made with. Move the folder away, or choose another."
                ) from None
            return None
        except (OSError, ValueError) as error:
            raise InputError(
                f"{path} cannot be read ({error}). Move the folder away to start again."
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
                    f"{path} was not written by `skipkv {self.command}`, or is damaged: {key!r} is "
                    "missing or wrong. Choose another folder."
                )
        return run

    def write(self, run: Mapping[str, Any]) -> None:
        """Write `run.json` atomically.

        Args:
            run: `settings` and the other keys.

        Raises:
            InputError: it cannot be written.
        """
        path, draft = self.path / RUN, self.path / f"{RUN}.new"
        whole = {"format": _FORMAT, "command": self.command, **run}
        with writing(path):
            draft.write_text(json.dumps(whole, indent=2) + "\n")
            os.replace(draft, path)

    def check(self, settings: Mapping[str, Any]) -> None:
        """Raise unless a run with these settings can begin or resume in the folder.

        Two runs must agree in all settings that both have. A setting that one of them lacks is not
        compared: it was not recorded then, or is not known yet.

        Args:
            settings: all settings that decide the run's results.

        Raises:
            InputError: the folder or a file in it cannot be written, or the settings differ from
                those of the run in the folder. The message names the differences.
        """
        check_writable(self.path, (RUN, self.records, "lock", *self.outputs))
        then = self.read()
        if then is None:
            return
        different = list(_differences(then["settings"], settings, ""))
        if different:
            raise InputError(
                f"{self.path} holds a run with other settings: {'; '.join(different)}. Use the "
                "settings of that run, or choose another folder."
            )

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Make the folder and lock it against other processes; the lock ends with the process.

        Raises:
            InputError: another process has locked it.
        """
        with writing(self.path):
            self.path.mkdir(parents=True, exist_ok=True)
            file = (self.path / "lock").open("w")
        with file:
            try:
                import fcntl
            except ImportError:  # Windows has no such lock: the user must avoid two runs at once
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


# What a change of a digest means, in words.
_DIGESTS = {
    "content": "its problems differ (another file, --limit or --seed)",
    "prompts": "its prompts differ (other questions, tokenizer or chat template)",
    "weights": "the weights differ",
    "traces": "the traces it was given differ",
}


def _differences(then: Mapping[str, Any], now: Mapping[str, Any], at: str) -> Iterator[str]:
    for key in now:
        if key not in then or then[key] == _as_written(now[key]):
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
            yield f"{at}{key} was {then[key]!r} and is {_as_written(now[key])!r}"


def _as_written(value: Any) -> Any:
    """A value as a file gives it back: tuples become lists."""
    return json.loads(json.dumps(value))
