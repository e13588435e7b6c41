"""The reference is complete: what is public is described, with shapes and sources, and on a page.

Public is what stands in the `__all__` of `skipkv`, or of a module or folder right under it whose
name has no underscore (CONTRIBUTING.md). A new member meets these tests without being listed here.
"""

import importlib
import inspect
import pkgutil
import re
import types
import typing
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import attrs
import pytest
from torch import Tensor

import skipkv
from skipkv import BatchScheduler, Evictor, Scorer, Segmenter, Steerer, presets

ROOT = Path(__file__).parents[1]
PROTOCOLS = {
    "scorers": Scorer,
    "evictors": Evictor,
    "segmenters": Segmenter,
    "steerers": Steerer,
    "schedulers": BatchScheduler,
}
# What a protocol's method is given is described once, there.
DESCRIBED_BY_PROTOCOL = {
    name for protocol in PROTOCOLS.values() for name in vars(protocol) if not name.startswith("_")
}
SECTIONS = r"Args|Raises|Returns|Yields|Example|Source|Differs|Laws"


def _public() -> Iterator[tuple[str, Any]]:
    """(dotted name, object) of all that is public; what is re-exported, under its home's name."""
    below = [f"skipkv.{module.name}" for module in pkgutil.iter_modules(skipkv.__path__)]
    seen: set[int] = set()
    for name in [*(name for name in below if "._" not in name), "skipkv"]:
        module = importlib.import_module(name)
        for member in getattr(module, "__all__", ()):
            value = getattr(module, member)
            if not isinstance(value, types.ModuleType) and id(value) not in seen:
                seen.add(id(value))
                yield f"{name}.{member}", value


PUBLIC = dict(_public())
DESCRIBED = {n: v for n, v in PUBLIC.items() if inspect.isclass(v) or inspect.isroutine(v)}
PARTS = {
    name: value
    for name, value in DESCRIBED.items()
    for protocol in [PROTOCOLS.get(name.split(".")[1])]
    if protocol and value is not protocol and inspect.isclass(value)
    if all(hasattr(value, m) for m in vars(protocol) if not m.startswith("_"))
}
PRESETS = {f"skipkv.presets.{name}": presets.get(name) for name in presets.NAMES}


def _methods(value: type) -> Iterator[tuple[str, Any]]:
    for name, member in vars(value).items():
        function = member.__func__ if isinstance(member, classmethod | staticmethod) else member
        if inspect.isfunction(function) and not name.startswith("_"):
            yield name, function


def _parameters(value: Any) -> list[inspect.Parameter]:
    """What a caller passes: none for a protocol, an error without `__init__`, or an enumeration."""
    if inspect.isclass(value) and not attrs.has(value) and "__init__" not in vars(value):
        return []
    if getattr(value, "_is_protocol", False):
        return []
    skipped = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    private = {"self", "cls"}
    if inspect.isclass(value) and attrs.has(value):
        private |= {field.alias for field in attrs.fields(value) if field.name.startswith("_")}
    parameters = inspect.signature(value).parameters.values()
    return [p for p in parameters if p.name not in private and p.kind not in skipped]


def _described(docstring: str) -> set[str]:
    """Names of the arguments in the section `Args:`."""
    section = re.search(rf"^Args:\n(.*?)(?=^(?:{SECTIONS}):|\Z)", docstring, re.S | re.M)
    return set(re.findall(r"^ {4}\*{0,2}(\w+):", section[1], re.M)) if section else set()


def _shapeless(annotation: Any) -> bool:
    """Whether a bare `Tensor` is in an annotation, without the axes that jaxtyping writes."""
    if isinstance(annotation, str):
        return bool(re.search(r"(?<!\[)\bTensor\b", annotation))
    return annotation is Tensor or any(map(_shapeless, typing.get_args(annotation)))


def _annotations(value: Any) -> dict[str, Any]:
    return {p.name: p.annotation for p in _parameters(value)} | (
        {} if inspect.isclass(value) else {"the result": inspect.signature(value).return_annotation}
    )


def _callables(name: str, value: Any) -> Iterator[tuple[str, Any]]:
    """A function, or a class and its methods."""
    yield name, value
    if inspect.isclass(value):
        yield from ((f"{name}.{method}", function) for method, function in _methods(value))


def test_what_the_tests_below_look_at_is_there():
    assert {"skipkv.policy.Policy", "skipkv.scorers.KeyNorm", "skipkv.CacheView"} <= set(PUBLIC)
    assert {"skipkv.scorers.KeyNorm", "skipkv.segmenters.Newline"} <= set(PARTS)
    assert "skipkv.scorers.Scorer" not in PARTS


@pytest.mark.parametrize("name", DESCRIBED)
def test_a_public_name_has_a_docstring_of_its_own(name):
    value = DESCRIBED[name]
    without = [n for n, member in _callables(name, value) if not (member.__doc__ or "").strip()]
    assert not without
    assert not value.__doc__.startswith(f"{value.__name__}("), "a docstring nobody wrote"


@pytest.mark.parametrize("name", DESCRIBED)
def test_every_argument_of_a_public_name_is_described(name):
    for place, value in _callables(name, DESCRIBED[name]):
        given = {p.name for p in _parameters(value)}
        method = place.rsplit(".", 1)[1]
        if place != name and (len(given) < 2 or method in DESCRIBED_BY_PROTOCOL):
            continue
        missing = given - _described(inspect.getdoc(value) or "")
        assert not missing, f"{place} says nothing of {sorted(missing)} under Args:"


@pytest.mark.parametrize("name", PROTOCOLS.values())
def test_a_protocol_describes_what_its_methods_are_given(name):
    for method, function in _methods(name):
        missing = {p.name for p in _parameters(function)} - _described(inspect.getdoc(function))
        assert not missing, f"{method} says nothing of {sorted(missing)} under Args:"


@pytest.mark.parametrize("name", DESCRIBED)
def test_a_public_name_gives_the_shapes_of_its_tensors(name):
    for place, value in _callables(name, DESCRIBED[name]):
        without = [n for n, annotation in _annotations(value).items() if _shapeless(annotation)]
        shaped = re.search(r"\[[A-Z](?:,? [A-Z])*\]", inspect.getdoc(value) or "")
        assert not without or shaped, f"{place}: of what shape is {', '.join(without)}?"


@pytest.mark.parametrize("name", [*PARTS, *PRESETS])
def test_a_part_or_a_preset_names_its_source(name):
    docstring = inspect.getdoc({**PARTS, **PRESETS}[name]) or ""
    source = re.search(r"\bSource: (.*?)(?=\n\n|\bDiffers:|\Z)", docstring, re.S)
    assert source, "no `Source:`. It names a paper (arXiv or a year), or `this library`."
    assert re.search(
        r"arXiv \d{4}\.\d{5}| (?:19|20)\d\d\)|this library", " ".join(source[1].split())
    )


@pytest.mark.parametrize("name", DESCRIBED)
def test_a_paper_is_cited_as_a_source(name):
    docstring = inspect.getdoc(DESCRIBED[name]) or ""
    assert "arXiv" not in docstring or "Source:" in docstring


def test_every_public_name_is_on_a_page_of_the_reference(site):
    packed = (site / "objects.inv").read_bytes().split(b"\n", 4)[4]
    places = dict(
        re.findall(r"^(\S+) \S+ \S+ (reference/\S+)", zlib.decompress(packed).decode(), re.M)
    )
    # a function whose file has its name is found under its home alone
    homes = {n: f"{v.__module__}.{v.__qualname__}" for n, v in DESCRIBED.items()}
    missing = [name for name in PUBLIC if not {name, homes.get(name)} & set(places)]
    assert not missing, "Write `::: skipkv.package` on a page in docs/reference/."
