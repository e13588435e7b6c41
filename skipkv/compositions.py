"""Makes a `Policy` of a name: a preset's, or that of an object in the user's own module.

A model may have its own settings for presets, in the file skipkv.json of its folder. Every command
resolves names here, and says which of the model's settings it used.
"""

import importlib
import inspect
import json
import os
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from skipkv._settings import (
    CALIBRATED,
    STEERING,
    Settings,
    is_file,
    looked_up,
    model_settings,
    store_calibrated,
    takes,
)
from skipkv._validators import kind_of
from skipkv.errors import ConfigError, SkipKVError

if TYPE_CHECKING:
    from skipkv.policy import Policy
    from skipkv.steerers import Steerer

__all__ = ["PolicyFactory", "model_settings", "resolve_policy", "store_calibrated"]

PolicyFactory: TypeAlias = "Callable[..., Policy]"
"""A preset, or a callable like one; it may take a budget, an interval and options by name."""
_OPTIONS = ("budget", "interval", *STEERING)  # each has an option of the command line
_GROWTH = 0.02  # the paper's, under `skipkv`


def resolve_policy(
    name: str,
    *,
    budget: int | None = None,
    interval: int | None = None,
    vector: str | None = None,
    strength: float | int | None = None,
    growth: float | int | None = None,
    settings: Settings | None = None,
) -> "Policy":
    """The policy called `name`, with the requested budget.

    Args:
        name: a preset's name, or `package.module:object` (see `find`). Options follow a colon, as
            in `skipkv:threshold=0.9,pool=5`. `skipkv:threshold=calibrated` takes the model's.
        budget: entries per head, in tokens; passed to a callable that takes a budget.
        interval: decode steps between events; passed to a callable that takes an interval.
        vector: path of a steering vector.
        strength: strength of the steering; None for 1.
        growth: how much the strength grows with every thought that was not execution. None takes
            the paper's 0.02 for `skipkv`, and no growth for other policies.
        settings: a model's own settings, from `model_settings`; the other arguments override them.
            None uses the published ones.

    Raises:
        ConfigError: the name is unknown, malformed or cannot be imported, the object does not give
            a policy, an option does not fit it, or a budget is missing or not allowed.
        InputError: the file does not hold a steering vector.

    Example:
        >>> resolve_policy("rkv", budget=64).budget.tokens
        64
        >>> resolve_policy("skipkv", settings=model_settings("tiny")).evictor.threshold
        0.7
    """
    from skipkv.policy import Policy

    found, written = read_name(name, settings=settings)
    explicit = {
        "budget": budget,
        "interval": interval,
        "vector": vector,
        "strength": strength,
        "growth": growth,
    }
    explicit = {key: value for key, value in explicit.items() if value is not None}
    if twice := written.keys() & explicit.keys():
        key = min(twice)
        raise ConfigError(
            f"Policy {name} says {key}={written[key]}, and the {key} is given as {explicit[key]} "
            "too. Give it once."
        )
    passed = {**written, **explicit}
    if isinstance(found, Policy):
        if passed.keys() & {"budget", "interval"}:
            raise ConfigError(
                f"Policy {name} is a finished Policy and keeps its own budget. Drop --budget and "
                "--interval, or name a function that takes them."
            )
        if passed.keys() - set(STEERING):
            raise ConfigError(f"Policy {name} is a finished Policy and takes no options.")
        return _steered(found, name, passed)
    return build(found, name, {**own_settings(name, settings), **passed})


def own_settings(name: str, settings: Settings | None) -> dict[str, Any]:
    """A model's settings for the preset in a name; empty for a user's own policy.

    An option that the name gives is left out, since the name's value holds. One that the name says
    to be `calibrated` is there with the model's value.

    Args:
        name: as for `resolve_policy`.
        settings: from `model_settings`.
    """
    preset, *options = name.split(":")
    if options and "=" not in options[0]:
        return {}  # package.module:object
    pairs = (pair.partition("=") for part in options for pair in part.split(","))
    written = {key: value for key, _, value in pairs}
    own = (settings or {}).get(preset, {})
    asked = {key: value for key, value in written.items() if value == CALIBRATED}
    kept = {key: value for key, value in own.items() if key not in written}
    return {**kept, **looked_up(name, asked, settings)}


def described(name: str, own: Mapping[str, Any], told: Mapping[str, Any]) -> str | None:
    """One line that says which settings of a policy come from the model; None if none do.

    Args:
        name: as for `resolve_policy`.
        own: from `own_settings`.
        told: options that the user gave; they replace the model's.
    """
    kept = {
        key: value
        for key, value in own.items()
        if key not in told or f"{key}={CALIBRATED}" in name  # told to take the model's
    }
    if not kept:
        return None
    shown = ", ".join(
        f"{key}={Path(value).name if key == 'vector' or is_file(value) else value}"
        for key, value in kept.items()
    )
    return f"{name} has the model's settings: {shown}"


def read_name(
    text: str, *, settings: Settings | None = None
) -> tuple["Policy | PolicyFactory", dict[str, Any]]:
    """What a name stands for, and the options written after it.

    Args:
        text: a preset or `package.module:object`; options follow a colon, as in
            `skipkv:threshold=0.9,pool=5`. An option of a preset may be `calibrated`.
        settings: from `model_settings`: it has the value of an option that says `calibrated`.

    Raises:
        ConfigError: there is no such policy, an option is not written `name=value`, or the model
            has no calibrated value.
    """
    name, *rest = text.split(":")
    if rest and not _is_option(rest[0].partition(",")[0]):
        name = f"{name}:{rest.pop(0)}"
    options = {}
    for part in ",".join(rest).split(",") if rest else []:
        if not _is_option(part):
            raise ConfigError(f"Policy {text}: the option {part!r} must be name=value.")
        key, _, value = part.partition("=")
        options[key] = _value(value)
    return find(name), looked_up(text, options, settings)


def _is_option(text: str) -> bool:
    key, equals, _ = text.partition("=")
    return bool(equals) and key.isidentifier()


def _value(text: str) -> Any:
    """The value of an option: numbers, true and false as in JSON; anything else is a text."""
    try:
        return json.loads(text.strip().lower() if text.strip() in ("True", "False") else text)
    except (ValueError, RecursionError):
        return text


def find(name: str) -> "Policy | PolicyFactory":
    """What `name` stands for: a finished `Policy`, or a callable that returns one.

    A name with a colon, `package.module:object`, is imported, also from the working directory. Any
    other name is a preset's.

    Raises:
        ConfigError: the name is unknown, malformed or cannot be imported, or stands for something
            else.
    """
    from skipkv.policy import Policy

    found: Any
    if ":" in name:
        found = _imported(name)
    else:
        from skipkv.presets import get

        found = get(name)
    if not isinstance(found, Policy) and not callable(found):
        raise ConfigError(
            f"Policy {name} must be a skipkv.Policy or a callable that returns one, got "
            f"{kind_of(found)}."
        )
    return found  # type: ignore[no-any-return]


def build(factory: Callable[..., Any], name: str, options: dict[str, Any]) -> "Policy":
    """Call `factory`, after checking that it takes these options and requires no others.

    Args:
        factory: a preset, or a callable like one.
        name: its name, for messages.
        options: `budget`, `interval`, those of `STEERING`, and others by name.
    """
    from skipkv import presets
    from skipkv.policy import Policy

    named = inspect.signature(factory).parameters
    pushing = {key: options[key] for key in STEERING if key in options and key not in named}
    options = {key: value for key, value in options.items() if key not in pushing}
    if factory is presets.seal:  # the preset that takes a vector itself
        if isinstance(options.get("vector"), str):
            options["vector"] = _vector(options["vector"])
        if pushing.pop("growth", None) is not None:
            raise ConfigError(f"Policy {name} has a fixed strength. Drop --growth.")
    for key in options:
        if not takes(factory, key):
            remedy = f"Drop --{key}." if key in _OPTIONS else f"It takes: {', '.join(named)}."
            raise ConfigError(f"Policy {name} takes no {key}. {remedy}")
    missing = [
        p.name
        for p in inspect.signature(factory).parameters.values()
        if p.default is p.empty
        and p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)
        and p.name not in options
    ]
    if missing == ["vector"]:
        raise ConfigError(
            f"Policy {name} needs a vector. Add --vector FILE; `skipkv calibrate` makes one."
        )
    if missing == ["budget"]:
        raise ConfigError(f"Policy {name} needs a budget in tokens. Add --budget N.")
    if missing and factory.__module__ == presets.__name__:
        option = missing[-1]
        raise ConfigError(
            f"Policy {name} needs a {option}, a file made for the model. Write "
            f"{name}{',' if ':' in name else ':'}{option}=FILE."
        )
    if missing:
        raise ConfigError(
            f"Policy {name} must be callable with a budget and an interval at most, but it also "
            f"requires {', '.join(missing)}. Give those defaults."
        )
    try:
        policy = factory(**options)
    except SkipKVError:
        raise
    except (TypeError, ValueError, AttributeError) as error:
        given = ", ".join(f"{key}={value!r}" for key, value in options.items())
        reason = " ".join(str(error).split())
        raise ConfigError(
            f"Policy {name} cannot be made with {given}: {type(error).__name__}: {reason}"
        ) from error
    if not isinstance(policy, Policy):
        raise ConfigError(
            f"Policy {name} must return a skipkv.Policy when called, got {kind_of(policy)}."
        )
    return _steered(policy, name, pushing)


def _steered(policy: "Policy", name: str, options: dict[str, Any]) -> "Policy":
    """The policy, with a steerer if the options hold a vector."""
    vector, strength, growth = (options.get(key) for key in STEERING)
    if vector is None:
        if strength is not None or growth is not None:
            raise ConfigError(
                f"Policy {name} has no vector to steer with. Add --vector FILE, or drop --strength "
                "and --growth."
            )
        return policy
    if growth is None:
        growth = _GROWTH if name.partition(":")[0] == "skipkv" else 0
    return policy.with_(steerer=_steerer(vector, 1.0 if strength is None else strength, growth))


def _steerer(vector: Any, strength: Any, growth: Any) -> "Steerer":
    from skipkv.steerers import AdaptiveSteerer, AdditiveSteerer

    direction = _vector(vector) if isinstance(vector, str) else vector
    if growth:
        return AdaptiveSteerer(direction, strength=strength, growth=growth)
    return AdditiveSteerer(direction, strength=strength)


def _vector(path: str) -> Any:
    from skipkv.steerers import SteeringVector

    return SteeringVector.load(path)


def _imported(name: str) -> object:
    module_name, _, path = name.partition(":")
    if not all(part.isidentifier() for part in [*module_name.split("."), *path.split(".")]):
        raise ConfigError(
            f"Policy {name} is malformed: write package.module:object, or a preset's name."
        )
    # As `python -m` does: a user's module is usually in the working directory.
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    try:
        found: object = importlib.import_module(module_name)
    except SkipKVError:
        raise  # the error of a policy built at import is clear as it is
    except Exception as error:  # a user's module may raise any error
        reason = " ".join(str(error).split())
        raise ConfigError(
            f"Policy {name}: module {module_name!r} cannot be imported: "
            f"{type(error).__name__}: {reason}"
        ) from error
    for part in path.split("."):
        if not hasattr(found, part):
            raise ConfigError(f"Policy {name}: module {module_name!r} has no {path!r}.")
        found = getattr(found, part)
    return found
