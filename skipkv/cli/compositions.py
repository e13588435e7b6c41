"""From `--policy` to a `Policy`: a preset's name, or an object of the user's own module."""

import importlib
import inspect
import os
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from skipkv.cli.exits import one_line
from skipkv.errors import ConfigError, SkipKVError

if TYPE_CHECKING:
    from skipkv.policy import Policy


def resolve_policy(
    name: str, *, budget: int | None = None, interval: int | None = None
) -> "Policy":
    """The policy called `name`, under the budget asked for.

    A name with a colon, `package.module:object`, is imported (the working directory counts): the
    object is a `Policy`, or a callable that returns one. Any other name is a preset's.

    Args:
        name: what follows `--policy`.
        budget: entries per head, in tokens; passed on to a callable that takes a budget.
        interval: decode steps between events, passed on likewise.

    Raises:
        ConfigError: unknown or malformed name, nothing importable there, an object that gives no
            policy, or a budget that is missing or not wanted.
    """
    from skipkv.policy import Policy

    found: object
    if ":" in name:
        found = _imported(name)
    else:
        from skipkv.presets import get

        found = get(name)
    if isinstance(found, Policy):
        if budget is not None or interval is not None:
            raise ConfigError(
                f"--policy {name} is a finished Policy and keeps its own budget. Drop --budget and "
                "--interval, or name a function that takes them."
            )
        return found
    if not callable(found):
        raise ConfigError(
            f"--policy {name} must be a skipkv.Policy or a callable that returns one, got a "
            f"{type(found).__name__}."
        )
    policy = _call(found, name, budget, interval)
    if not isinstance(policy, Policy):
        raise ConfigError(
            f"--policy {name} must return a skipkv.Policy when called, got a "
            f"{type(policy).__name__}."
        )
    return policy


def takes_budget(function: Callable[..., Any]) -> bool:
    """Whether a preset, or a callable like one, has a parameter `budget`."""
    return "budget" in inspect.signature(function).parameters


def _call(
    function: Callable[..., Any], name: str, budget: int | None, interval: int | None
) -> object:
    """The callable's result, after checking that it takes what is given and needs nothing more."""
    given = {"budget": budget, "interval": interval}
    passed = {key: value for key, value in given.items() if value is not None}
    parameters = inspect.signature(function).parameters
    takes_any = any(p.kind is p.VAR_KEYWORD for p in parameters.values())
    for key in passed:
        if key not in parameters and not takes_any:
            raise ConfigError(f"--policy {name} takes no {key}. Drop --{key}.")
    missing = [
        p.name
        for p in parameters.values()
        if p.default is p.empty
        and p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)
        and p.name not in passed
    ]
    if missing == ["budget"]:
        raise ConfigError(f"--policy {name} needs a budget in tokens. Add --budget N.")
    if missing:
        raise ConfigError(
            f"--policy {name} must be callable with a budget and an interval at most, but it also "
            f"requires {', '.join(missing)}. Give those defaults."
        )
    return function(**passed)


def _imported(name: str) -> object:
    module_name, _, path = name.partition(":")
    if not all(part.isidentifier() for part in [*module_name.split("."), *path.split(".")]):
        raise ConfigError(
            f"--policy {name} is malformed: write package.module:object, or a preset's name."
        )
    # As `python -m` does: a user's module usually lies where the command is run.
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    try:
        found: object = importlib.import_module(module_name)
    except SkipKVError:
        raise  # a policy built at import says best itself what is wrong with it
    except Exception as error:  # whatever a user's module raises
        raise ConfigError(
            f"--policy {name}: module {module_name!r} cannot be imported: "
            f"{type(error).__name__}: {one_line(error)}"
        ) from error
    for part in path.split("."):
        if not hasattr(found, part):
            raise ConfigError(f"--policy {name}: module {module_name!r} has no {path!r}.")
        found = getattr(found, part)
    return found
