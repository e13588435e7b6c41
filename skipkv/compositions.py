"""From a name to a `Policy`: a preset's name, or an object of the user's own module."""

import importlib
import inspect
import os
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeAlias

from skipkv.errors import ConfigError, SkipKVError

if TYPE_CHECKING:
    from skipkv.policy import Policy

PolicyFactory: TypeAlias = "Callable[..., Policy]"
"""A preset, or a callable like one: of a budget and an interval at most, unless told more."""


def resolve_policy(
    name: str, *, budget: int | None = None, interval: int | None = None
) -> "Policy":
    """The policy called `name`, under the budget asked for.

    Args:
        name: a preset's, or `package.module:object`: see `find`.
        budget: entries per head, in tokens; passed on to a callable that takes a budget.
        interval: decode steps between events, passed on likewise.

    Raises:
        ConfigError: unknown or malformed name, nothing importable there, an object that gives no
            policy, or a budget that is missing or not wanted.

    Example:
        >>> resolve_policy("rkv", budget=64).budget.tokens
        64
    """
    from skipkv.policy import Policy

    found = find(name)
    given = {"budget": budget, "interval": interval}
    passed = {key: value for key, value in given.items() if value is not None}
    if isinstance(found, Policy):
        if passed:
            raise ConfigError(
                f"Policy {name} is a finished Policy and keeps its own budget. Drop --budget and "
                "--interval, or name a function that takes them."
            )
        return found
    return build(found, name, passed)


def find(name: str) -> "Policy | PolicyFactory":
    """What `name` stands for: a finished `Policy`, or a callable that is to return one.

    A name with a colon, `package.module:object`, is imported (the working directory counts); any
    other name is a preset's.

    Raises:
        ConfigError: unknown or malformed name, nothing importable there, or neither of the two.
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
            f"Policy {name} must be a skipkv.Policy or a callable that returns one, got a "
            f"{type(found).__name__}."
        )
    return found  # type: ignore[no-any-return]


def build(factory: Callable[..., Any], name: str, options: dict[str, Any]) -> "Policy":
    """What `factory` returns, after checking that it takes these options and needs nothing more.

    Args:
        factory: a preset, or a callable like one.
        name: how the user knows it; for messages.
        options: `budget`, `interval`, and what else it is to be given.
    """
    from skipkv.policy import Policy

    for key in options:
        if not takes(factory, key):
            raise ConfigError(f"Policy {name} takes no {key}. Drop --{key}.")
    missing = [
        p.name
        for p in inspect.signature(factory).parameters.values()
        if p.default is p.empty
        and p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)
        and p.name not in options
    ]
    if missing == ["budget"]:
        raise ConfigError(f"Policy {name} needs a budget in tokens. Add --budget N.")
    if missing:
        raise ConfigError(
            f"Policy {name} must be callable with a budget and an interval at most, but it also "
            f"requires {', '.join(missing)}. Give those defaults."
        )
    policy = factory(**options)
    if not isinstance(policy, Policy):
        raise ConfigError(
            f"Policy {name} must return a skipkv.Policy when called, got a {type(policy).__name__}."
        )
    return policy


def takes(factory: Callable[..., Any], option: str) -> bool:
    """Whether a preset, or a callable like one, can be given `option`."""
    parameters = inspect.signature(factory).parameters
    return option in parameters or any(p.kind is p.VAR_KEYWORD for p in parameters.values())


def _imported(name: str) -> object:
    module_name, _, path = name.partition(":")
    if not all(part.isidentifier() for part in [*module_name.split("."), *path.split(".")]):
        raise ConfigError(
            f"Policy {name} is malformed: write package.module:object, or a preset's name."
        )
    # As `python -m` does: a user's module usually lies where the command is run.
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    try:
        found: object = importlib.import_module(module_name)
    except SkipKVError:
        raise  # a policy built at import says best itself what is wrong with it
    except Exception as error:  # whatever a user's module raises
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
