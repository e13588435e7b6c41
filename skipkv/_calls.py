"""Calls of a policy's parts, with checks of what they raise, return and edit."""

import traceback
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, TypeVar

import attrs
import torch
from jaxtyping import Float, Int
from torch import Tensor

from skipkv._types import (
    CacheView,
    Memory,
    Record,
    Rotation,
    SentenceTable,
    SteeringContext,
    Written,
    needs_of,
)
from skipkv._types.records import arguments
from skipkv._validators import kind_of
from skipkv.errors import PartError, SkipKVError

_Error = TypeVar("_Error", bound=SkipKVError)
_Shown = TypeVar("_Shown", Tensor, CacheView, SteeringContext)
_FIELDS: dict[type, tuple[str, ...]] = {
    kind: tuple(field.name for field in attrs.fields(kind))
    for kind in (CacheView, Rotation, SentenceTable, SteeringContext)
}
_asked: ContextVar[list[Tensor] | None] = ContextVar("_asked", default=None)
# torch's messages for exhausted memory on the CPU, and on devices without an error class for it.
_OUT_OF_MEMORY = ("not enough memory", "can't allocate memory", "out of memory")


def call(part: object, method: str, shown: Mapping[str, object], **options: object) -> Any:
    """Call a method of a part and return its answer.

    Args:
        part: any part.
        method: the method's name.
        shown: its positional arguments, under the names that errors use.
        options: its keyword arguments.

    Raises:
        PartError: the method raised an error, or edited a tensor of its arguments. An out-of-memory
            error is not the part's fault and is raised as it is.
    """
    before = versions(shown)
    try:
        answer = getattr(part, method)(*shown.values(), **options)
    except Exception as cause:
        if is_out_of_memory(cause):
            raise
        error = (
            cause
            if isinstance(cause, PartError) and cause.part  # a part inside this one
            else broken(part, f".{method} raised {type(cause).__name__}: {cause}")
        )
        error.edited |= versions(shown) != before
        if error is cause:
            raise
        raise error from cause
    after = versions(shown)
    if edited := [name for name, version in before.items() if after.get(name) != version]:
        error = broken(
            part,
            f".{method} edited {' and '.join(edited)} in place. Other parts and later steps read "
            "the same tensor: work on a copy, tensor.clone().",
        )
        error.edited = True
        raise error
    return answer


def scores_of(scorer: object, view: CacheView) -> Float[Tensor, "R H L"]:
    """The scores that a scorer gives the entries of a view.

    Args:
        scorer: any scorer.
        view: the view of the cache.

    Raises:
        PartError: the scorer raised, edited the view, or did not return scores.
    """
    asked, before = _asked.get(), _asked.set(None)  # what it asks of others in turn is its own
    try:
        scores: Tensor = call(scorer, "score", {"view": view})
    finally:
        _asked.reset(before)
    check_tensor(scorer, "score", scores, "[R, H, L]", view.positions, torch.float32)
    if asked is not None:
        asked.append(scores)
    return scores


@contextmanager
def scores_asked() -> Iterator[list[Float[Tensor, "R H L"]]]:
    """Within this context `scores_of` adds what scorers answer to the list."""
    asked: list[Tensor] = []
    token = _asked.set(asked)
    try:
        yield asked
    finally:
        _asked.reset(token)


def remembered_of(scorer: object, view: CacheView) -> dict[Memory, Float[Tensor, "R H L"]]:
    """What a scorer wants its memories to hold for each entry of a view.

    Args:
        scorer: any scorer; one without a method `remember` remembers nothing.
        view: the view of the cache.

    Raises:
        PartError: the scorer raised, edited the view, or did not return a tensor for memories that
            it declares.
    """
    if not callable(getattr(scorer, "remember", None)):
        return {}
    answer = call(scorer, "remember", {"view": view})
    if not isinstance(answer, Mapping):
        raise broken(
            scorer,
            f".remember must return a mapping from memories to tensors, got {kind_of(answer)}.",
        )
    declared = [r for r in needs_of(scorer).records if isinstance(r, Memory)]
    if unknown := [memory for memory in answer if memory not in declared]:
        raise broken(
            scorer,
            f".remember returned values for {unknown[0]!r}, which its `needs` does not declare: "
            f"Needs(records=({unknown[0]!r},)).",
        )
    for memory, tensor in answer.items():
        complaint = tensor_complaint(tensor, "[R, H, L]", view.positions, torch.float32)
        if complaint:
            raise broken(scorer, f".remember, for {memory!r}, {complaint}")
    return dict(answer)


def parts_of(*parts: object, past_writers: bool = True) -> list[object]:
    """These parts and all scorers and evictors that they are made of, each once.

    A part is made of what is in its fields, alone or in tuples and lists.

    Args:
        parts: scorers and evictors.
        past_writers: whether a part with a method `on_write` is looked into as well.
    """
    found: list[object] = []
    waiting = [*parts]
    while waiting:
        part = waiting.pop(0)
        if any(part is one for one in found):
            continue
        found.append(part)
        if past_writers or not _writes(part):
            waiting = [*_inside(part), *waiting]
    return found


def _inside(part: object) -> list[object]:
    kind = type(part)
    values = [getattr(part, f.name, None) for f in attrs.fields(kind)] if attrs.has(kind) else []
    values += getattr(part, "__dict__", {}).values()
    listed = [one for v in values for one in (v if isinstance(v, tuple | list) else (v,))]
    return [one for one in listed if hasattr(one, "score") or hasattr(one, "keep")]


def _writes(part: object) -> bool:
    return callable(getattr(part, "on_write", None))


def writers_of(*parts: object) -> list[object]:
    """The parts that say something of entries when they are written, each once.

    Args:
        parts: scorers and evictors. One that has no `on_write` itself is looked into.
    """
    found = [part for part in parts_of(*parts, past_writers=False) if _writes(part)]
    return [part for number, part in enumerate(found) if part not in found[:number]]


def saying(part: object, trait: str) -> object | None:
    """The part, or the first of those that it is made of, that says something of itself.

    Args:
        part: a scorer or an evictor.
        trait: an attribute, such as "mixes_heads".
    """
    return next((one for one in parts_of(part) if getattr(one, trait, False)), None)


def written_of(
    part: object,
    keys: Float[Tensor, "B H T D"],
    values: Float[Tensor, "B H T D"],
    hidden: Float[Tensor, "B T E"],
    layer: int,
) -> dict[Written, Float[Tensor, "B H T"]]:
    """What a part says of entries that are about to be written.

    Args:
        part: one of `writers_of`.
        keys: their keys, after RoPE.
        values: their values.
        hidden: the states that enter their layer.
        layer: the layer's number in the model.

    Raises:
        PartError: the part raised, edited its arguments, or did not return a tensor for each record
            of this kind that it declares.
    """
    shown = {"keys": keys, "values": values, "hidden": hidden, "layer": layer}
    answer = call(part, "on_write", shown)
    declared = needs_of(part).written
    if not isinstance(answer, Mapping) or set(answer) != set(declared):
        came = repr(list(answer)) if isinstance(answer, Mapping) else kind_of(answer)
        raise broken(
            part,
            f".on_write must return a mapping from each Written of its `needs`, {list(declared)}, "
            f"to a tensor, got {came}.",
        )
    for record, tensor in answer.items():
        complaint = tensor_complaint(tensor, "[B, H, T]", keys[..., 0], torch.float32)
        if complaint:
            raise broken(part, f".on_write, for {record!r}, {complaint}")
    return dict(answer)


def statistics_of(
    values: Mapping[Record, Float[Tensor, "B H L"]],
    weights: Float[Tensor, "B H G T L"],
    positions: Int[Tensor, "B T"],
) -> dict[Record, Float[Tensor, "B H L"]]:
    """The statistics among some records, after some tokens.

    Args:
        values: the records before.
        weights: the attention of each query head of each token to each entry.
        positions: of the tokens; -1 is padding.

    Raises:
        PartError: a statistic raised, edited its arguments, or did not return a tensor like `held`.
    """
    values = {record: watched(held) for record, held in values.items()}
    found: dict[Record, Float[Tensor, "B H L"]] = {}
    for statistic, shown in arguments(values, watched(weights), watched(positions)):
        answer = call(statistic, "update", shown)
        check_tensor(statistic, "update", answer, "[B, H, L]", shown["held"], torch.float32)
        found[statistic] = answer
    return found


def culprit(scorer: object, view: CacheView) -> object:
    """The scorer to blame for scores that are not finite: of a sum, the term at fault.

    Args:
        scorer: the scorer whose scores are not finite.
        view: the view it scored.
    """
    find = getattr(scorer, "culprit", None)
    return scorer if find is None else find(view)


def check_tensor(
    part: object, method: str, answer: object, axes: str, like: Tensor, dtype: torch.dtype
) -> None:
    """Raise `PartError` unless an answer is a tensor of the right shape, dtype and device.

    Args:
        part: the part that answered.
        method: the method that answered.
        answer: the answer.
        axes: names of the axes, for the message.
        like: a tensor of the right shape on the right device.
        dtype: the right dtype.
    """
    if complaint := tensor_complaint(answer, axes, like, dtype):
        raise broken(part, f".{method} {complaint}")


def tensor_complaint(answer: object, axes: str, like: Tensor, dtype: torch.dtype) -> str:
    """What is wrong with an answer that must be a tensor; empty if nothing is.

    Args:
        answer: the answer.
        axes: names of the axes.
        like: a tensor of the right shape on the right device.
        dtype: the right dtype.
    """
    shape = list(like.shape)
    if not isinstance(answer, Tensor):
        return f"must return a tensor {axes} = {shape}, got {type(answer).__name__}."
    if answer.layout != torch.strided:
        return f"must return a dense tensor {axes} = {shape}, got one of layout {answer.layout}."
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
    """The same error, without frames: the traceback of its cause becomes a note.

    Frames keep their variables alive. An error that is kept with a result would keep the whole
    cache.

    Args:
        error: an error that was caught.
    """
    if error.__cause__ is not None:
        error.add_note("".join(traceback.format_exception(error.__cause__)).rstrip())
    error.__cause__ = error.__context__ = error.__traceback__ = None
    return error


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that the memory of some device is used up.

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
    """The tensors inside an argument of a part, each with its name.

    Args:
        value: a tensor, a view of the cache or a steering context; other values have none.
        name: name of the value.
    """
    if isinstance(value, Tensor):
        yield name, value
        return
    start = name and f"{name}."
    for field in _FIELDS.get(type(value), ()):
        content = getattr(value, field)
        if isinstance(content, Tensor):
            yield start + field, content
        elif field == "rotation":
            yield from tensors(content, start + field)
        elif field == "records":
            for record, tensor in content.items():
                yield f"{start}{field}[{record!r}]", tensor
        elif field == "sentences" and content is not None:
            for number, table in enumerate(content):
                yield from tensors(table, f"{start}{field}[{number}]")


def versions(shown: Mapping[str, object]) -> dict[str, int]:
    """How often each tensor of a part's arguments has been written to, if torch counts it.

    torch does not count for tensors made in inference mode: see `watched`.

    Args:
        shown: the arguments, by name.
    """
    return {
        name: tensor._version
        for argument, value in shown.items()
        for name, tensor in tensors(value, argument)
        if not tensor.is_inference()
    }


def watched(value: _Shown) -> _Shown:
    """The same value, with tensors whose writes torch counts, in inference mode too.

    The new tensors share memory with the old ones. Those of sentence tables stay as they are: torch
    counts the writes to them already.

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
        if isinstance(value, CacheView) and value.records:
            own["records"] = {record: _watched(t) for record, t in value.records.items()}
        return attrs.evolve(value, **own)


def _watched(tensor: Tensor) -> Tensor:
    if not tensor.is_inference():
        return tensor
    alias = torch.empty(0, dtype=tensor.dtype, device=tensor.device)
    return alias.set_(tensor)  # type: ignore[call-overload, no-any-return]
