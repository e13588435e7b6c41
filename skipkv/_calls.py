"""Calling a part of a policy: what it raises, answers and edits is checked; an error names it."""

import traceback
from collections.abc import Iterator, Mapping
from typing import Any, TypeVar

import attrs
import torch
from jaxtyping import Float
from torch import Tensor

from skipkv._types import CacheView, SentenceTable, SteeringContext
from skipkv.errors import PartError, SkipKVError

_Error = TypeVar("_Error", bound=SkipKVError)
_Shown = TypeVar("_Shown", Tensor, CacheView, SteeringContext)
_FIELDS: dict[type, tuple[str, ...]] = {
    kind: tuple(field.name for field in attrs.fields(kind))
    for kind in (CacheView, SentenceTable, SteeringContext)
}
# How torch says on the CPU, and on devices without an error of their own, that memory is used up.
_OUT_OF_MEMORY = ("not enough memory", "can't allocate memory", "out of memory")


def call(part: object, method: str, shown: Mapping[str, object], **options: object) -> Any:
    """What a method of a part answers.

    Args:
        part: any part.
        method: the method's name.
        shown: its positional arguments, under the names that errors give them.
        options: its keyword arguments.

    Raises:
        PartError: the method raised something, or edited a tensor that it was shown. An error for
            want of memory is not the part's fault and stays as it is.
    """
    before = versions(shown)
    try:
        answer = getattr(part, method)(*shown.values(), **options)
    except Exception as cause:
        named_already = isinstance(cause, PartError) and cause.part
        if named_already or is_out_of_memory(cause):
            raise
        raise broken(part, f".{method} raised {type(cause).__name__}: {cause}") from cause
    after = versions(shown)
    if edited := [name for name, version in before.items() if after[name] != version]:
        raise broken(
            part,
            f".{method} edited {' and '.join(edited)} in place. Other parts and later steps read "
            "the same tensor: work on a copy, tensor.clone().",
        )
    return answer


def scores_of(scorer: object, view: CacheView) -> Float[Tensor, "R H L"]:
    """A scorer's answer.

    Args:
        scorer: any scorer.
        view: what it is shown.

    Raises:
        PartError: it raised, edited the view, or answered something else than scores.
    """
    scores = call(scorer, "score", {"view": view})
    check_tensor(scorer, "score", scores, "[R, H, L]", view.positions, torch.float32)
    return scores  # type: ignore[no-any-return]


def culprit(scorer: object, view: CacheView) -> object:
    """The scorer to name where scores are not finite: a sum says which of its terms it is.

    Args:
        scorer: the scorer whose scores are not finite.
        view: what it was shown.
    """
    find = getattr(scorer, "culprit", None)
    return scorer if find is None else find(view)


def check_tensor(
    part: object, method: str, answer: object, axes: str, like: Tensor, dtype: torch.dtype
) -> None:
    """Raise `PartError` unless an answer is a tensor of this kind.

    Args:
        part: whose answer it is.
        method: the method that gave it.
        answer: what came.
        axes: names of the axes, for the message.
        like: a tensor of the shape, on the device.
        dtype: of the tensor.
    """
    if complaint := tensor_complaint(answer, axes, like, dtype):
        raise broken(part, f".{method} {complaint}")


def tensor_complaint(answer: object, axes: str, like: Tensor, dtype: torch.dtype) -> str:
    """What is wrong with an answer that must be a tensor; nothing where all is right.

    Args:
        answer: what came.
        axes: names of the axes.
        like: a tensor of the shape, on the device.
        dtype: of the tensor.
    """
    shape = list(like.shape)
    if not isinstance(answer, Tensor):
        return f"must return a tensor {axes} = {shape}, got {type(answer).__name__}."
    if answer.shape == like.shape and answer.dtype == dtype and answer.device == like.device:
        return ""
    wanted, came = f"{shape} of {dtype}", f"{list(answer.shape)} of {answer.dtype}"
    if answer.device != like.device:
        wanted, came = f"{wanted} on {like.device}", f"{came} on {answer.device}"
    return f"must return {axes} = {wanted}, got {came}."


def broken(part: object, text: str) -> PartError:
    """The error of a part that broke its protocol; its message begins with the part.

    Args:
        part: the part.
        text: what it did, and the rule.
    """
    try:
        name = repr(part)
    except Exception:  # a part's own code
        name = object.__repr__(part)
    error = PartError(name + text)
    error.part = name
    return error


def without_frames(error: _Error) -> _Error:
    """The error itself, the traceback of its cause now a note: frames keep all they hold alive.

    An error that is kept with a result would keep the whole cache.

    Args:
        error: an error that was caught.
    """
    if error.__cause__ is not None:
        error.add_note("".join(traceback.format_exception(error.__cause__)).rstrip())
    error.__cause__ = error.__context__ = error.__traceback__ = None
    return error


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory is used up, on whatever device.

    Args:
        error: any error.

    Example:
        >>> is_out_of_memory(MemoryError()), is_out_of_memory(ValueError("not enough memory"))
        (True, False)
    """
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    text = str(error).lower()
    return isinstance(error, RuntimeError) and any(t in text for t in _OUT_OF_MEMORY)


def tensors(value: object, name: str = "") -> Iterator[tuple[str, Tensor]]:
    """The tensors that a part finds in what it is shown, each with its name.

    Args:
        value: a tensor, a view of the cache, a steering context; in anything else are none.
        name: of the value.
    """
    if isinstance(value, Tensor):
        yield name, value
        return
    start = name and f"{name}."
    for field in _FIELDS.get(type(value), ()):
        content = getattr(value, field)
        if isinstance(content, Tensor):
            yield start + field, content
        elif field == "sentences" and content is not None:
            for number, table in enumerate(content):
                yield from tensors(table, f"{start}{field}[{number}]")


def versions(shown: Mapping[str, object]) -> dict[str, int]:
    """How often each of these tensors has been written to, where torch counts it.

    It does not count for tensors made in inference mode: see `watched`.

    Args:
        shown: what a part is shown, by name.
    """
    return {
        name: tensor._version
        for argument, value in shown.items()
        for name, tensor in tensors(value, argument)
        if not tensor.is_inference()
    }


def watched(value: _Shown) -> _Shown:
    """The same value, of whose tensors torch counts the writes, in inference mode too.

    The tensors share their memory with those given. Those of sentence tables stay as they are: they
    are made so that writes to them are counted.

    Args:
        value: a tensor, a view of the cache, a steering context.
    """
    with torch.inference_mode(False):
        if isinstance(value, Tensor):
            return _watched(value)
        own: dict[str, Any] = {
            name: _watched(tensor)
            for name, tensor in tensors(value)
            if name in _FIELDS[type(value)]
        }
        return attrs.evolve(value, **own)


def _watched(tensor: Tensor) -> Tensor:
    if not tensor.is_inference():
        return tensor
    alias = torch.empty(0, dtype=tensor.dtype, device=tensor.device)
    return alias.set_(tensor)  # type: ignore[call-overload, no-any-return]
