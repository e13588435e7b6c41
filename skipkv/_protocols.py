"""Check, when a policy is built, that an object has the shape of the protocol it is used as."""

import inspect
from typing import Any

from skipkv.errors import ProtocolError


def require(part: object, protocol: type, field: str) -> None:
    """Raise `ProtocolError` unless `part` conforms to `protocol` by shape.

    What is checked: every public member of the protocol is there, methods are callable, and they
    take the protocol's arguments. Annotations are left to the type checker.
    """
    if isinstance(part, type):
        raise ProtocolError(
            f"{field} must be an instance of {_one(protocol.__name__)}, got the class "
            f"{part.__name__}. Write {part.__name__}(...)."
        )
    for name, expected in vars(protocol).items():
        if name.startswith("_"):
            continue
        if not hasattr(part, name):
            raise ProtocolError(_message(part, protocol, field, name, expected, "has none"))
        if not inspect.isfunction(expected):
            continue  # a read-only attribute
        if fault := _fault(getattr(part, name), expected):
            raise ProtocolError(_message(part, protocol, field, name, expected, fault))


def require_optional(part: object, methods: type, field: str) -> None:
    """Raise `ProtocolError` unless the optional methods that `part` has take their arguments.

    Args:
        part: any part.
        methods: a class with the methods, as they are called.
        field: where the part is, for the error.
    """
    for name, expected in vars(methods).items():
        if name.startswith("_") or not inspect.isfunction(expected) or not hasattr(part, name):
            continue
        if fault := _fault(getattr(part, name), expected):
            raise ProtocolError(
                f"{field}: {type(part).__name__}.{name} is called as "
                f"{name}({', '.join(_written(expected))}), and {type(part).__name__} {fault}. See "
                f"{methods.__module__}.{methods.__name__}."
            )


def _fault(method: Any, expected: Any) -> str | None:
    """Why a method cannot be called as expected; None if it can."""
    if not callable(method):
        return f"has {method!r} there"
    signature = inspect.signature(method)
    positional, keywords = _arguments(expected)
    try:
        signature.bind(*positional, **keywords)
    except TypeError:
        return f"has {expected.__name__}{signature}"
    return None


def _arguments(expected: Any) -> tuple[list[None], dict[str, None]]:
    """Stand-ins for the arguments the runtime passes to the protocol's method."""
    parameters = list(inspect.signature(expected).parameters.values())[1:]  # without self
    positional = [None for p in parameters if p.kind is not p.KEYWORD_ONLY]
    keywords = {p.name: None for p in parameters if p.kind is p.KEYWORD_ONLY}
    return positional, keywords


def _message(part: object, protocol: type, field: str, name: str, expected: Any, found: str) -> str:
    if inspect.isfunction(expected):
        wanted = f"method {name}({', '.join(_written(expected))})"
    else:
        wanted = f"attribute {name}"
    return (
        f"{field} must be {_one(protocol.__name__)}: it needs {_one(wanted)}, and "
        f"{type(part).__name__} {found}. See {protocol.__module__}.{protocol.__name__}."
    )


def _one(noun: str) -> str:
    """The noun behind its article."""
    return f"{'an' if noun[0].lower() in 'aeiou' else 'a'} {noun}"


def _written(function: Any) -> list[str]:
    """The parameters as one would write them, without annotations and without self."""
    written = []
    for parameter in list(inspect.signature(function).parameters.values())[1:]:
        if parameter.kind is parameter.KEYWORD_ONLY and "*" not in written:
            written.append("*")
        written.append(parameter.name)
    return written
