"""Shared by all segmenters: naming the sentences between cuts, and a short repr."""

from collections.abc import Sequence
from typing import Any

import attrs

from skipkv._types import Cut, TokenStream
from skipkv.segmenters.thoughts import ThoughtClassifier


def cuts_at(stream: TokenStream, ends: Sequence[int], classify: ThoughtClassifier) -> list[Cut]:
    """A cut at each of `ends`, with the thought of the tokens between it and the end before."""
    starts = [0, *ends]
    return [
        Cut(end, classify("".join(stream.pieces[start:end])))
        for start, end in zip(starts, ends, strict=False)
    ]


def short_repr(self: Any) -> str:
    """`Class(field=value)` with only those fields that differ from their defaults."""
    shown = []
    for field in attrs.fields(type(self)):
        value, default = getattr(self, field.name), field.default
        if isinstance(default, attrs.Factory):  # type: ignore[arg-type]
            default = default.factory()
        if value != default:
            # a set's own repr has another order in every process
            shown.append(
                f"{field.name}={sorted(value) if isinstance(value, frozenset) else value!r}"
            )
    return f"{type(self).__name__}({', '.join(shown)})"
