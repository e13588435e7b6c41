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
import sysconfig
import types
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import attrs

from skipkv._runs.changes import changed

_ADDRESS = re.compile(r" at 0x[0-9a-f]+")
_PLAIN = (type(None), bool, int, float, complex, str, bytes, enum.Enum, re.Pattern)
# Classes of these packages go by their names: `sessions` in run.json has the packages' versions.
_KNOWN = {"skipkv", "torch", "transformers", "numpy", *sys.stdlib_module_names} - {"__main__"}
# The field of what was learned that says how it was read from a file.
_SOURCE = "_source"

_Seen = dict[int, Any]
"""The objects that were visited, by their ids."""


def stamp(policy: object) -> dict[str, str]:
    """The description of a policy, or of any other value, for `run.json`.

    It has the policy's repr, `composition`, and a digest of its code and values, `code`. The digest
    is of bytecode, and so differs between versions of Python. It begins with Python's version, so
    that only digests of the same version are compared.

    What was learned and read from a file, such as a steering vector, is described by its numbers: a
    file may move.
    """
    seen: _Seen = {}
    code = _code_of(policy, seen)
    text = repr(policy)
    for part in [part for part in seen.values() if _is_from_file(part)]:
        content = _code_of(part, {}).partition(":")[2]  # the same in every version of Python
        text = text.replace(repr(part), f"{type(part).__name__}(content={content!r})")
    return {"composition": _ADDRESS.sub("", text), "code": code}


def _code_of(policy: object, seen: _Seen) -> str:
    digest = hashlib.sha256()
    for piece in _pieces(policy, seen):
        digest.update(piece.encode("utf-8", "surrogatepass") + b"\0")
    return f"{'{}.{}'.format(*sys.version_info)}:{digest.hexdigest()[:16]}"


def _is_from_file(value: object) -> bool:
    """Whether a value was learned, and read from a file that its repr names."""
    return _is_known(type(value)) and bool(getattr(value, _SOURCE, ""))


def differs(then: Mapping[str, Any], now: Mapping[str, Any]) -> str | None:
    """How two stamps differ, in words; None if they describe the same policy.

    Args:
        then: a stamp; one of an older version of skipkv has no `code`.
        now: another stamp.
    """
    if then["composition"] != now["composition"]:
        return changed(then["composition"], now["composition"])
    if _compared(then.get("code"), now["code"]) is False:
        return f"it is {now['composition']} as before, but the code or a value of a part changed"
    return None


def _compared(then: str | None, now: str) -> bool | None:
    """Whether two digests of code agree; None where they cannot be compared."""
    if then is None or then.partition(":")[0] != now.partition(":")[0]:
        return None
    return then == now


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
        yield from _pieces(_fields(value), seen)


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


def _fields(value: Any) -> dict[str, Any]:
    """The values of an object: its fields or attributes; the repr if it is a library's."""
    import torch

    if attrs.has(type(value)):
        own = {_SOURCE} if _is_known(type(value)) else {}
        fields = [field for field in attrs.fields(type(value)) if field.name not in own]
        return {field.name: _field(value, field) for field in fields}
    if dataclasses.is_dataclass(value):
        names = [field.name for field in dataclasses.fields(value)]
        return {name: getattr(value, name, None) for name in names}
    if isinstance(value, torch.nn.Module):
        return _module(value)
    if isinstance(array := getattr(value, "tobytes", None), types.BuiltinFunctionType):
        return {"bytes": array()}
    if _is_known(type(value)):
        return {"repr": _ADDRESS.sub("", repr(value))}
    # private attributes too: a part may keep a setting there
    state: Any = object.__getstate__(value)
    attributes, slots = state if isinstance(state, tuple) else (state, None)
    return {**(attributes or {}), **(slots or {})}


def _module(value: Any) -> dict[str, Any]:
    """The values of a torch module: not all that it computes with is in its state."""
    import torch

    inside = [value.named_parameters, value.named_buffers]
    found = {name: held for of in inside for name, held in of(recurse=False)}
    known, every = _is_known(type(value)), vars(torch.nn.Module())
    for name, held in vars(value).items():
        if name not in every and not (known and name.startswith("_")):
            found[name] = held
    return found | dict(value.named_children())


def _field(value: Any, field: "attrs.Attribute[Any]") -> Any:
    factory = getattr(field.default, "factory", None)
    if not field.init and factory is not None and _is_known(type(value)):
        return factory()  # what comes with use, such as copies on devices, is none yet
    return getattr(value, field.name, None)


def _is_known(thing: Any) -> bool:
    return str(thing.__module__).partition(".")[0] in _KNOWN


def _is_users(module: str) -> bool:
    """Whether a module is a file of the user's: of no package that was installed."""
    file = getattr(sys.modules.get(module), "__file__", None)
    if file is None or module.partition(".")[0] in _KNOWN:
        return False
    installed = {Path(sysconfig.get_path(name)) for name in ("purelib", "platlib")}
    return installed.isdisjoint(Path(file).absolute().parents)


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
    """Bytecode, and the functions, classes and constants of the user's files that it names."""
    yield code.co_code.hex()
    yield repr(code.co_names)
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            yield from _code(constant, function, seen)
        elif constant != function.__doc__:
            yield from _pieces(constant, seen)
    for name in code.co_names:
        found = function.__globals__.get(name)
        module = getattr(found, "__module__", None)
        own = module is not None and (module == function.__module__ or _is_users(module))
        if own or isinstance(found, (*_PLAIN, tuple, list, dict, set, frozenset)):
            yield from _pieces(found, seen)
