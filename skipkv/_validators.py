"""One attrs validator: a field is of a kind, and large enough; what is not is a `ConfigError`."""

from collections.abc import Callable
from typing import Any

import attrs

from skipkv.errors import ConfigError

_KINDS = {int: "a whole number", float: "a number", bool: "True or False", str: "a string"}


def is_a(
    kind: type, *, least: int | None = None, optional: bool = False
) -> Callable[[Any, "attrs.Attribute[Any]", Any], None]:
    """A validator for fields of one kind; a whole number is a number, a truth value is neither.

    Args:
        kind: the type of the value.
        least: the smallest number allowed.
        optional: whether None is allowed.

    Example:
        >>> @attrs.frozen(kw_only=True)
        ... class Example:
        ...     size: int = attrs.field(validator=is_a(int, least=1))
        >>> Example(size=0)
        Traceback (most recent call last):
        skipkv.errors.ConfigError: Example(size=0) must be a whole number of at least 1.
    """
    accepted = (int, float) if kind is float else kind
    rule = _KINDS.get(kind, f"of type {kind.__name__}")
    rule += "" if least is None else f" of at least {least}"
    rule += " or None" if optional else ""

    def validate(instance: Any, attribute: "attrs.Attribute[Any]", value: Any) -> None:
        if optional and value is None:
            return
        fits = isinstance(value, accepted) and (kind is bool or not isinstance(value, bool))
        if not fits or (least is not None and value < least):
            raise ConfigError(
                f"{type(instance).__name__}({attribute.name}={value!r}) must be {rule}."
            )

    return validate


def kind_of(value: object) -> str:
    """What a value is, for a sentence.

    Args:
        value: any value.

    Example:
        >>> kind_of(3), kind_of([]), kind_of(None)
        ('an int', 'a list', 'None')
    """
    if value is None:
        return "None"
    name = type(value).__name__
    return f"an {name}" if name[0] in "aeiouAEIO" else f"a {name}"
