"""Drawn values as readable text: tensors as nested lists, views field by field."""

from typing import Any

import attrs
import torch
from torch import Tensor

from skipkv._types import (
    CacheView,
    Request,
    Rotation,
    SentenceTable,
    SteeringContext,
    TokenStream,
)

_MOST = 96  # elements of a tensor written out; more than a shrunk case has


def shown(value: Any) -> str:
    """A readable text of a value: one line, or several indented lines for values with fields.

    Example:
        >>> shown(torch.tensor([[1.0, 0.5]]))
        '[[1, 0.5]]'
    """
    if isinstance(value, Tensor):
        return _tensor(value)
    if isinstance(value, TokenStream):
        return f"ids {list(value.ids)}, pieces {list(value.pieces)}"
    if isinstance(value, Request):
        return f"{value.prompt_tokens} prompt tokens, {value.max_new_tokens} new"
    if isinstance(value, CacheView | Rotation | SentenceTable | SteeringContext):
        return _fields(value)
    if isinstance(value, list | tuple) and value and isinstance(value[0], Request | SentenceTable):
        return "".join(f"\n  {i}: {_indented(shown(item))}" for i, item in enumerate(value))
    return repr(value)


def _fields(value: Any) -> str:
    lines = []
    for field in attrs.fields(type(value)):
        content = getattr(value, field.name)
        if content is not None and not field.name.startswith("_"):
            lines.append(f"\n  {field.name:<12} {_indented(shown(content))}")
    return "".join(lines)


def _tensor(value: Tensor) -> str:
    if value.numel() == 0:
        return f"empty, of shape {list(value.shape)}"
    kind = "" if value.dtype in (torch.float32, torch.int64, torch.bool) else f" of {value.dtype}"
    if value.numel() > _MOST:
        return f"{list(value.shape)}{kind}, from {value.min():g} to {value.max():g}"
    return _nested(value.tolist()) + kind


def _nested(value: Any) -> str:
    if isinstance(value, list):
        return "[" + ", ".join(_nested(item) for item in value) + "]"
    return f"{value:g}" if isinstance(value, float) else str(value)


def _indented(text: str) -> str:
    return text.replace("\n", "\n  ")
