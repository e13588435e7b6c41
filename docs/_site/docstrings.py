"""What mkdocstrings must be told of this house's docstrings and classes, all by static analysis."""

import re
from typing import Any

import griffe

_ATTRS = {"attrs.frozen", "attrs.define"}
_COMPOSITE = "hypothesis.strategies.composite"


class HouseStyle(griffe.Extension):
    """Constructors of attrs classes, axes of jaxtyping, `Example:`, `Source:`, `Differs:`."""

    def on_object(self, *, obj: griffe.Object, **kwargs: Any) -> None:
        """Mend the docstring of any object, and what is particular to its kind."""
        if obj.docstring:
            obj.docstring.value = _sections(obj.docstring.value)
        if obj.is_class and "__init__" not in obj.members:
            decorator = _attrs(obj)
            if decorator is not None:
                obj.set_member("__init__", _constructor(obj, decorator))
        if obj.is_function:
            if any(d.callable_path == _COMPOSITE for d in obj.decorators):
                del obj.parameters["draw"]  # which Hypothesis gives
            for parameter in obj.parameters:
                _quote_axes(parameter.annotation)
            _quote_axes(obj.returns)
        elif obj.is_attribute:
            _quote_axes(obj.annotation)


def _sections(text: str) -> str:
    """Doctests as griffe's section of examples, and a label that stands out for the others."""
    text = re.sub(r"^Example:$", "Examples:", text, flags=re.MULTILINE)
    return re.sub(
        r"(^|(?<=[.)] ))(Source|Differs|Laws):(?=\s)", r"**\2:**", text, flags=re.MULTILINE
    )


def _attrs(cls: griffe.Class) -> griffe.Expr | None:
    for decorator in cls.decorators:
        value = decorator.value
        if isinstance(value, griffe.Expr) and value.canonical_path in _ATTRS:
            return value
    return None


def _arguments(call: Any) -> dict[str, Any]:
    if not isinstance(call, griffe.ExprCall):
        return {}
    return {a.name: a.value for a in call.arguments if isinstance(a, griffe.ExprKeyword)}


def _constructor(cls: griffe.Class, decorator: griffe.Expr) -> griffe.Function:
    """The `__init__` that attrs writes: a parameter per annotated field, in their order."""
    keywords = str(_arguments(decorator).get("kw_only")) == "True"
    parameters = [
        griffe.Parameter("self", kind=griffe.ParameterKind.positional_or_keyword),
    ]
    for field in cls.members.values():
        if not field.is_attribute or field.annotation is None or "property" in field.labels:
            continue
        if field.name.startswith("_"):
            continue  # not for callers
        options = _arguments(field.value)
        is_field = str(getattr(field.value, "canonical_path", "")) == "attrs.field"
        if str(options.get("init")) == "False":
            continue
        default = options.get("default") if is_field else field.value
        if "factory" in options or str(default).startswith("attrs.Factory"):
            default = "..."
        only = keywords or str(options.get("kw_only")) == "True"
        parameters.append(
            griffe.Parameter(
                field.name,
                annotation=field.annotation,
                default=default,
                kind=griffe.ParameterKind.keyword_only
                if only
                else griffe.ParameterKind.positional_or_keyword,
            )
        )
    return griffe.Function("__init__", parent=cls, parameters=griffe.Parameters(*parameters))


def _quote_axes(annotation: Any) -> None:
    """Put back the quotes of axes such as "R", which look like a name to griffe."""
    if not isinstance(annotation, griffe.Expr):
        return
    is_array = isinstance(annotation, griffe.ExprSubscript) and isinstance(
        annotation.slice, griffe.ExprTuple
    )
    if is_array and annotation.canonical_path.startswith("jaxtyping."):
        *kind, axes = annotation.slice.elements
        text = str(axes).strip("'\"")
        annotation.slice.elements = [*kind, f'"{text}"']
    for part in annotation.iterate(flat=False):
        if part is not annotation:  # a name's only part is itself
            _quote_axes(part)
