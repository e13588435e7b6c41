"""Compares policies by the code and values of their parts, so that a resumed run uses the same.

A repr shows the arguments of a part. It does not show what the part does, and the repr of a user's
part may not show all its values.
"""

import dataclasses
import enum
import functools
import hashlib
import re
import sys
import types
from collections.abc import Iterator, Mapping
from contextlib import suppress
from typing import Any

import attrs

from skipkv._runs.changes import changed

_ADDRESS = re.compile(r" at 0x[0-9a-f]+")
_PLAIN = (type(None), bool, int, float, complex, str, bytes, enum.Enum, re.Pattern)
# Classes of these packages go by their names: `sessions` in run.json has the packages' versions.
_KNOWN = {"skipkv", "torch", "transformers", "numpy", *sys.stdlib_module_names} - {"__main__"}


class Stamp(dict[str, str]):
    """The description of a policy in `run.json`.

    It has the policy's repr, `composition`, and a digest of its code and values, `code`. The digest
    is of bytecode, and so differs between versions of Python. It begins with Python's version, so
    that only digests of the same version are compared.

    What was learned and read from a file, such as a steering vector, is described by its numbers. A
    file may move. Descriptions of older versions of skipkv have its path; `changed_since` compares
    with one of them.
    """

    def __init__(self, policy: object) -> None:
        seen = _Seen()
        code = _code_of(policy, seen)
        self._policy = policy
        self._files = [*{_source(v): v for v in seen.values() if _source(v)}.values()]
        text = repr(policy)
        for part in self._files:
            text = text.replace(repr(part), f"{type(part).__name__}(content={_content(part)!r})")
        super().__init__(composition=_ADDRESS.sub("", text), code=code)

    def changed_since(self, then: Mapping[str, Any]) -> str | None:
        """How this policy differs from one that an older version described; None if it does not.

        Args:
            then: a description with the paths of files.
        """
        old, new = then["composition"], _ADDRESS.sub("", repr(self._policy))
        paths = self._paths_in(old)
        if paths is None:
            return changed(old, self["composition"] if "(content=" in old else new)
        comparable = _compared(then.get("code"), _code_of(self._policy, _Seen(sources=paths)))
        if comparable or (comparable is None and old == new):
            return None
        if comparable is None:
            return f"{changed(old, new)}; what the file held was not recorded"
        if old != new:
            return f"{changed(old, new)}; what the file holds, or code of a part, changed too"
        return _changed_inside(new)

    def _paths_in(self, composition: str) -> dict[str, str] | None:
        """How each file was read according to an older description, by how it is read now.

        None if the policies differ in more than files.
        """
        order = [_source(part) for part in self._files]
        pattern = re.escape(_ADDRESS.sub("", repr(self._policy)))
        for number, source in enumerate(order):
            call = rf"(?P<file{number}>\w+\((?:'[^']*'|\"[^\"]*\")[^()]*\))"
            pattern = pattern.replace(re.escape(source), call, 1)
            pattern = pattern.replace(re.escape(source), f"(?P=file{number})")
        found = re.fullmatch(pattern, composition)
        if not order or found is None:
            return None
        return {source: found[f"file{n}"] for n, source in enumerate(order)}


def stamp(policy: object) -> Stamp:
    """The description of a policy, or of any other value, for `run.json`."""
    return Stamp(policy)


def _code_of(policy: object, seen: "_Seen") -> str:
    digest = hashlib.sha256()
    for piece in _pieces(policy, seen):
        digest.update(piece.encode("utf-8", "surrogatepass") + b"\0")
    return f"{'{}.{}'.format(*sys.version_info)}:{digest.hexdigest()[:16]}"


def _content(part: object) -> str:
    """A digest of a learned part's numbers, the same in every version of Python."""
    return _code_of(part, _Seen()).partition(":")[2]


def _source(value: object) -> str:
    """How a learned part was read from a file; empty where it was not."""
    source = getattr(value, "_source", "") if _is_known(type(value)) else ""
    return source if isinstance(source, str) else ""


class _Seen(dict[int, Any]):
    """The objects that were visited, by their ids.

    Args:
        sources: how learned parts are told to have been read from files, by how they were. None
            leaves that out.
    """

    def __init__(self, sources: Mapping[str, str] | None = None) -> None:
        super().__init__()
        self.sources = sources


def differs(then: Mapping[str, Any], now: Mapping[str, Any]) -> str | None:
    """How two stamps differ, in words; None if they describe the same policy.

    Args:
        then: a stamp; one of an older version of skipkv has no `code`, or paths of files.
        now: another stamp. Only a `Stamp` can be compared with one that has paths.
    """
    if then["composition"] != now["composition"]:
        if isinstance(now, Stamp):
            return now.changed_since(then)
        return changed(then["composition"], now["composition"])
    if _compared(then.get("code"), now["code"]) is False:
        return _changed_inside(now["composition"])
    return None


def _compared(then: str | None, now: str) -> bool | None:
    """Whether two digests of code agree; None where they cannot be compared."""
    if then is None or then.partition(":")[0] != now.partition(":")[0]:
        return None
    return then == now


def _changed_inside(composition: str) -> str:
    return f"it is {composition} as before, but the code or a value of a part changed"


def _pieces(value: Any, seen: _Seen) -> Iterator[str]:
    """A value as texts: the same for values that behave the same, in every process."""
    import torch  # takes a second, which `skipkv --help` does without

    if isinstance(value, _PLAIN):
        yield repr(value)
        return
    if id(value) in seen:
        return
    seen[id(value)] = value  # the reference also keeps the id from being used again
    yield type(value).__qualname__
    if isinstance(value, Mapping | set | frozenset | tuple | list):
        yield from _items(value, seen)
        del seen[id(value)]  # equal constants may be one object or two
    elif isinstance(value, torch.Tensor):
        data = value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes()
        yield f"{value.dtype} {tuple(value.shape)} {hashlib.sha256(data).hexdigest()}"
    elif isinstance(value, functools.partial):
        yield from _pieces((value.func, value.args, value.keywords), seen)
    elif isinstance(value, types.MethodType):
        yield from _pieces((value.__func__, value.__self__), seen)
    elif isinstance(value, types.FunctionType):
        yield from _function(value, seen)
    elif isinstance(value, type):
        yield from _class(value, seen)
    elif hasattr(value, "__qualname__"):  # a function written in C
        yield f"{value.__module__}.{value.__qualname__}"
    else:
        yield from _class(type(value), seen)
        yield from _pieces(_fields(value, seen), seen)


def _items(values: Any, seen: _Seen) -> Iterator[str]:
    if isinstance(values, Mapping):
        for key in sorted(values, key=repr):
            yield from _pieces(key, seen)
            yield from _pieces(values[key], seen)
    elif isinstance(values, set | frozenset):
        yield from sorted(piece for item in values for piece in _pieces(item, seen))
    else:
        for item in values:
            yield from _pieces(item, seen)


def _fields(value: Any, seen: _Seen) -> dict[str, Any]:
    """The values of an object: its fields, state or attributes; the repr if it is a library's."""
    import torch

    if attrs.has(type(value)):
        fields = {field.name: _field(value, field) for field in attrs.fields(type(value))}
        if _source(value):
            del fields["_source"]
            if seen.sources is not None:
                fields["_source"] = seen.sources[_source(value)]
        return fields
    if dataclasses.is_dataclass(value):
        names = [field.name for field in dataclasses.fields(value)]
    elif isinstance(value, torch.nn.Module):
        return value.state_dict()
    elif isinstance(array := getattr(value, "tobytes", None), types.BuiltinFunctionType):
        return {"bytes": array()}
    elif _is_known(type(value)):
        return {"repr": _ADDRESS.sub("", repr(value))}
    else:
        names = [name for name in getattr(value, "__dict__", {}) if not name.startswith("_")]
    return {name: getattr(value, name, None) for name in names}


def _field(value: Any, field: "attrs.Attribute[Any]") -> Any:
    factory = getattr(field.default, "factory", None)
    if not field.init and factory is not None and _is_known(type(value)):
        return factory()  # what comes with use, such as copies on devices, is none yet
    return getattr(value, field.name, None)


def _is_known(thing: Any) -> bool:
    return str(thing.__module__).partition(".")[0] in _KNOWN


def _class(kind: type, seen: _Seen) -> Iterator[str]:
    for base in kind.__mro__:
        yield f"{base.__module__}.{base.__qualname__}"
        if _is_known(base):
            continue
        for name, member in sorted(vars(base).items()):
            member = getattr(member, "__func__", getattr(member, "func", member))
            if isinstance(member, property):
                member = (member.fget, member.fset)
            special = name.startswith("__") and not isinstance(member, types.FunctionType)
            if not special and not isinstance(member, types.MemberDescriptorType):
                yield name
                yield from _pieces(member, seen)


def _function(function: Any, seen: _Seen) -> Iterator[str]:
    if _is_known(function):
        yield f"{function.__module__}.{function.__qualname__}"
        return
    if function.__code__.co_filename.startswith("<attrs generated"):
        return
    yield from _pieces((function.__defaults__, function.__kwdefaults__), seen)
    for cell in function.__closure__ or ():
        with suppress(ValueError):  # an empty cell: the name was never assigned
            yield from _pieces(cell.cell_contents, seen)
    yield from _code(function.__code__, function, seen)


def _code(code: types.CodeType, function: Any, seen: _Seen) -> Iterator[str]:
    """Bytecode, and the functions, classes and constants of its own module that it names."""
    yield code.co_code.hex()
    yield repr(code.co_names)
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            yield from _code(constant, function, seen)
        elif constant != function.__doc__:
            yield from _pieces(constant, seen)
    for name in code.co_names:
        found = function.__globals__.get(name)
        own = getattr(found, "__module__", None) == function.__module__
        if own or isinstance(found, (*_PLAIN, tuple, list, dict, set, frozenset)):
            yield from _pieces(found, seen)
