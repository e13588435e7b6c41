"""The file skipkv.json in a model's folder: its settings of presets, and what was calibrated."""

import inspect
import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeAlias

from skipkv.errors import ConfigError, InputError

Settings: TypeAlias = Mapping[str, Mapping[str, Any]]
"""Preset -> a model's own values of its options."""

FILE = "skipkv.json"
"""The name of the file with a model's settings, in the model's folder."""
OTHERS = "*"
"""The name, in such a file, of the presets that need only a budget and are not in it."""
CALIBRATED = "calibrated"
"""The name, in such a file, of what `skipkv calibrate` estimated; and an option's value for it."""
STEERING = ("vector", "strength", "growth")
"""Options that every preset takes: a file with a steering vector, its strength and growth."""


def model_settings(model: str, *, published: bool = False) -> dict[str, dict[str, Any]]:
    """The settings in a model's folder; empty for a model on the hub or without such a file.

    What calibration estimated stands under "calibrated", per preset. It is used only where an
    option says `calibrated`, as in `skipkv:threshold=calibrated`.

    Args:
        model: the value of `--model`: tiny, a folder, a hub id or a .gguf file.
        published: leave out the settings of presets, so that they have their published ones. What
            calibration estimated stays.

    Raises:
        InputError: the file does not hold options of presets.

    Example:
        >>> model_settings("tiny")["rkv"]
        {'budget': 270, 'interval': 16}
        >>> list(model_settings("tiny", published=True))
        ['calibrated']
    """
    from skipkv.models.loading import folder_of

    folder = folder_of(model)
    if folder is None or not (folder / FILE).is_file():
        return {}
    path = folder / FILE
    settings = _read(path)
    from skipkv.presets import BUDGETED

    calibrated = _estimates(path, settings.pop(CALIBRATED, {}))
    found = {CALIBRATED: calibrated} if calibrated else {}
    if published:
        return found
    shared = settings.pop(OTHERS, None)
    if shared is not None:
        others = [name for name in BUDGETED if name not in settings]
        settings = {**dict.fromkeys(others, shared), **settings}
    own = {name: _own_options(path, name, options) for name, options in settings.items()}
    return found | {name: looked_up(name, options, found) for name, options in own.items()}


def store_calibrated(path: Path, preset: str, options: Mapping[str, Any], *, made: str) -> None:
    """Write what calibration estimated into a file of settings; its other entries stay.

    Args:
        path: the file; made if it does not exist. Commands read skipkv.json in a model's folder.
        preset: the preset that the options belong to.
        options: their values.
        made: how they were estimated.

    Raises:
        InputError: there is a file that holds no settings, or it cannot be written.

    Example:
        >>> from tempfile import TemporaryDirectory
        >>> with TemporaryDirectory() as model:
        ...     path = Path(model) / "skipkv.json"
        ...     store_calibrated(path, "skipkv", {"threshold": 0.8}, made="by hand")
        ...     settings = model_settings(model)
        >>> settings
        {'calibrated': {'skipkv': {'threshold': 0.8}}}
    """
    from skipkv._runs import writing

    check_settings(path)
    settings = _read(path) if path.exists() else {}
    known = settings.get(CALIBRATED, {})
    settings[CALIBRATED] = {**known, preset: {**known.get(preset, {}), **options}, "made": made}
    partial = path.with_name(f"{path.name}.partial")
    with writing(path):
        partial.write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")
        os.replace(partial, path)


def check_settings(path: Path) -> None:
    """Raise unless a file of settings can be read, or does not exist yet.

    Raises:
        InputError: it does not hold an object, or what it calls calibrated is not that.
    """
    if path.exists():
        _estimates(path, _read(path).get(CALIBRATED, {}))


def _read(path: Path) -> dict[str, Any]:
    try:
        settings = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"{path} is not JSON ({error}).") from error
    if not isinstance(settings, dict):
        raise InputError(f"{path} must hold an object of options for each preset.")
    return settings


def _estimates(path: Path, options: object) -> dict[str, Any]:
    """What calibration estimated, per preset, without the note on how it was made."""
    if not isinstance(options, dict):
        raise InputError(f"{path}: {CALIBRATED!r} must hold an object, got {options!r}.")
    return {
        name: _own_options(path, name, values) for name, values in options.items() if name != "made"
    }


def looked_up(name: str, options: Mapping[str, Any], settings: Settings | None) -> dict[str, Any]:
    """A preset's options, with the model's value where one says `calibrated`.

    Raises:
        ConfigError: the model has no such value.
    """
    from skipkv.presets import NAMES

    preset = name.partition(":")[0]
    if preset not in NAMES:  # a callable of the user may have its own meaning for the word
        return dict(options)
    known = (settings or {}).get(CALIBRATED, {}).get(preset, {})
    for option, value in options.items():
        if value == CALIBRATED and option not in known:
            remedy = (
                f"`skipkv calibrate --threshold FILE` estimates one, where FILE is {FILE} in the "
                "model's folder; or give a number."
                if (preset, option) == ("skipkv", "threshold")
                else "Give a value."
            )
            raise ConfigError(
                f"Policy {name} asks for a calibrated {option}, and none is known for this model. "
                f"{remedy}"
            )
    return {
        option: known[option] if value == CALIBRATED else value for option, value in options.items()
    }


def _own_options(path: Path, name: str, options: object) -> dict[str, Any]:
    from skipkv.presets import NAMES, get

    if name not in NAMES:
        raise InputError(f"{path} has options for {name!r}. Known are: {', '.join(NAMES)}.")
    if not isinstance(options, dict):
        raise InputError(f"{path}: the options of {name} must be an object, got {options!r}.")
    for option, value in options.items():
        if option not in STEERING and not takes(get(name), option):
            raise InputError(f"{path}: {name} takes no {option!r}.")
        if option == "vector" and not isinstance(value, str):
            raise InputError(
                f"{path}: the vector of {name} must be the name of a file, got {value!r}."
            )
    files = [option for option, value in options.items() if option == "vector" or is_file(value)]
    return {**options, **{option: str(path.parent / options[option]) for option in files}}


def is_file(value: object) -> bool:
    """Whether an option's value names a file of tensors."""
    return isinstance(value, str) and value.endswith(".safetensors")


def takes(factory: Callable[..., Any], option: str) -> bool:
    """Whether a preset, or a callable like one, takes `option`."""
    parameters = inspect.signature(factory).parameters
    return option in parameters or any(p.kind is p.VAR_KEYWORD for p in parameters.values())
