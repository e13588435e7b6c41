"""A run's folder: what was asked for in `run.json`, what came of it in `records.jsonl`."""

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from skipkv.errors import InputError

RUN, RECORDS = "run.json", "records.jsonl"
_FORMAT = 1

Settings = dict[str, Any]


def read_run(folder: Path) -> Settings | None:
    """What `run.json` holds; None where there is none.

    Raises:
        InputError: it cannot be read.
    """
    path = folder / RUN
    try:
        run = json.loads(path.read_text())
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise InputError(
            f"{path} cannot be read ({error}). Move the folder away to start anew."
        ) from error
    if not isinstance(run, dict) or run.get("format") != _FORMAT:
        raise InputError(
            f"{path} is of another version of skipkv. Choose another folder with --output."
        )
    return run


def write_run(folder: Path, settings: Settings) -> None:
    """Write `run.json`, whole or not at all."""
    draft = folder / f"{RUN}.new"
    draft.write_text(json.dumps({"format": _FORMAT, **settings}, indent=2) + "\n")
    os.replace(draft, folder / RUN)


def check_same(folder: Path, then: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    """Raise unless two runs agree in all settings they both have.

    What one of them lacks was not measured then, or is not known yet, and can do no harm.

    Raises:
        InputError: they differ; the message says in what.
    """
    different = list(_differences(then, now, ""))
    if different:
        raise InputError(
            f"{folder} holds a run with other settings: {'; '.join(different)}. Repeat those, or "
            "choose another folder with --output."
        )


# what people call the digests, which say nothing to them
_DIGESTS = {
    "content": "its problems differ (another file, --limit or --seed)",
    "prompts": "its prompts differ (another tokenizer or chat template)",
    "weights": "the weights differ",
}


def _differences(then: Mapping[str, Any], now: Mapping[str, Any], at: str) -> Iterator[str]:
    for key in now:
        if key not in then or then[key] == now[key]:
            continue
        if isinstance(now[key], Mapping):
            yield from _differences(then[key], now[key], f"{at}{key} ")
        elif key in _DIGESTS:
            yield f"{at.strip()}: {_DIGESTS[key]}"
        else:
            yield f"{at}{key} was {then[key]!r} and is {now[key]!r}"


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Keep other processes from running in `folder`; the lock goes with the process.

    Raises:
        InputError: one does.
    """
    try:
        import fcntl
    except ImportError:  # Windows: two runs in one folder are the user's to avoid
        yield
        return
    with (folder / "lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise InputError(
                f"{folder} is in use by another run. Wait for it, or choose another folder with "
                "--output."
            ) from error
        yield
