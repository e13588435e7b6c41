"""From `--policy`, `--vector` and a model's own settings to a policy that may steer."""

import json
from typing import TYPE_CHECKING, Any

from skipkv.compositions import build, find, resolve_policy
from skipkv.errors import ConfigError, InputError

if TYPE_CHECKING:
    from skipkv.policy import Policy

SETTINGS = "skipkv.json"
"""A file in a model's folder: preset -> what it is given with this model unless one says more."""


def model_settings(model: str) -> dict[str, dict[str, Any]]:
    """The settings that lie beside a model's weights; none on the hub or where there is no file.

    Raises:
        InputError: a file that is no JSON object of objects.
    """
    from skipkv.runtime.loading import folder_of

    folder = folder_of(model)
    if folder is None or not (folder / SETTINGS).is_file():
        return {}
    try:
        settings = json.loads((folder / SETTINGS).read_text(encoding="utf-8"))
    except ValueError as error:
        raise InputError(f"{folder / SETTINGS} is no JSON ({error}).") from error
    if not isinstance(settings, dict) or not all(isinstance(v, dict) for v in settings.values()):
        raise InputError(f"{folder / SETTINGS} must hold an object of options for each preset.")
    for options in settings.values():
        if "vector" in options:
            options["vector"] = str(folder / options["vector"])
    return settings


def steered_policy(
    name: str,
    *,
    budget: int | None = None,
    interval: int | None = None,
    vector: str | None = None,
    strength: float | int | None = None,
    growth: float | int | None = None,
    settings: dict[str, dict[str, Any]] | None = None,
) -> "Policy":
    """The policy called `name`, steering with the vector in a file where one is given.

    Args:
        name: what follows `--policy`.
        budget: as for `resolve_policy`.
        interval: as for `resolve_policy`.
        vector: path of a steering vector.
        strength: of the steering; None for 1.
        growth: of the strength with every thought that was not execution; None for the paper's 0.02
            under `skipkv`, and none under any other policy.
        settings: the model's own, from `model_settings`; they hold where an argument is None.

    Raises:
        ConfigError: as `resolve_policy`; `seal` without a vector, or an option that is not for it.
        InputError: no steering vector in the file.
    """
    explicit = {
        "budget": budget,
        "interval": interval,
        "vector": vector,
        "strength": strength,
        "growth": growth,
    }
    options: dict[str, Any] = dict((settings or {}).get(name, {}))
    options.update((key, value) for key, value in explicit.items() if value is not None)
    file, push, rise = (options.pop(key, None) for key in ("vector", "strength", "growth"))
    if file is None:
        if name == "seal":
            raise ConfigError(
                "--policy seal needs a vector. Add --vector FILE; `skipkv calibrate` makes one."
            )
        return _unsteered(name, options)
    from skipkv.steerers import AdaptiveSteerer, AdditiveSteerer, SteeringVector

    if name == "seal":  # it is the steering, around another policy
        name = "full" if options.get("budget") is None else "rkv"
        if name == "full" and interval is None:
            options.pop("interval", None)
    push = 1.0 if push is None else push
    if rise is None:
        rise = 0.02 if name == "skipkv" else 0.0
    direction = SteeringVector.load(file)
    return _unsteered(name, options).with_(
        steerer=AdaptiveSteerer(direction, strength=push, growth=rise)
        if rise
        else AdditiveSteerer(direction, strength=push)
    )


def _unsteered(name: str, options: dict[str, Any]) -> "Policy":
    if options.keys() <= {"budget", "interval"}:
        return resolve_policy(name, **options)
    found = find(name)
    assert callable(found)  # settings beyond a budget are a preset's
    return build(found, name, options)
