"""Checks that the laws of several protocols share."""

from collections.abc import Callable
from typing import Any

import attrs
import torch
from hypothesis import strategies as st
from torch import Tensor

from skipkv._calls import tensor_complaint, tensors
from skipkv._protocols import require
from skipkv._types import CacheView, Needs, needs_of
from skipkv.errors import ProtocolError
from skipkv.testing.laws.law import Broken, Case, Law
from skipkv.testing.laws.shown import shown
from skipkv.testing.strategies import axes_of, cache_views

# Times that a part is asked again before an answer counts as the same at every call.
_AGAIN = 16


def protocol_law(protocol: type, field: str) -> Law:
    """The law that comes first: the component has the shape of its protocol."""

    def check(component: Any, case: Case) -> None:
        try:
            require(component, protocol, field)
        except ProtocolError as error:
            raise Broken(str(error)) from None

    return Law(
        name="protocol",
        says=f"It has the methods of {protocol.__name__} and they take its arguments.",
        why="a Policy refuses anything else when it is built.",
        check=check,
        basic=True,
    )


def check_tensor(value: Any, axes: str, like: Tensor, dtype: torch.dtype, method: str) -> None:
    """Raise `Broken` unless `value` is such a tensor, as the runtime checks it."""
    if complaint := tensor_complaint(value, axes, like, dtype):
        raise Broken(f"{method} {complaint}")


def check_same(before: Tensor, after: Tensor, where: Tensor, changed: str) -> None:
    """Raise `Broken` unless two tensors agree, up to rounding, wherever `where` is True."""
    if before.shape != after.shape or before.dtype != after.dtype:
        raise Broken(
            f"{changed}, the answer had shape {list(before.shape)} and dtype {before.dtype}, and "
            f"then {list(after.shape)} and {after.dtype}."
        )
    if before.is_floating_point():
        # a reduction over more slots may round differently, by no more than that
        same = torch.isclose(before, after, atol=1e-5, rtol=1e-4, equal_nan=True)
    else:
        same = before == after
    wrong = where & ~same
    if wrong.any():
        place = wrong.nonzero()[0].tolist()
        raise Broken(
            f"{changed}, the answer at {place} was {before[tuple(place)].item():g} and became "
            f"{after[tuple(place)].item():g}.\n  before: {shown(before)}\n  after:  {shown(after)}"
        )


def _alike(before: Tensor, after: Tensor, where: Tensor) -> bool:
    try:
        check_same(before, after, where, "")
    except Broken:
        return False
    return True


def snapshot(value: object) -> dict[str, Tensor]:
    """Copies of a value's tensors."""
    return {name: tensor.clone() for name, tensor in tensors(value)}


def check_unchanged(value: object, before: dict[str, Tensor], method: str) -> None:
    """Raise `Broken` where a tensor of `value` has changed."""
    for name, tensor in tensors(value):
        if not torch.equal(tensor, before[name]):
            raise Broken(
                f"{method} changed {name} in place.\n  before: {shown(before[name])}\n"
                f"  after:  {shown(tensor)}"
            )


def full_views(part: Any) -> Any:
    """Views with every need there is, and with more queries than `part` declares."""
    needs = needs_of(part)
    return st.integers(needs.queries + 1, needs.queries + 3).flatmap(
        lambda window: cache_views(
            window=window,
            queries=window,
            attention=True,
            sentences=True,
            rotary=True,
            records=needs.records,
            **axes_of(needs.model),
        )
    )


def check_needs(
    part: Any, view: CacheView, where: Tensor, method: str, ask: Callable[[CacheView], Tensor]
) -> None:
    """Raise `Broken` where a part answers otherwise to a view of what it declares and no more.

    Args:
        part: a scorer or an evictor.
        view: one of `full_views(part)`.
        where: slots in which the answers must agree.
        method: what `ask` calls, for the message.
        ask: gives the part's answer to a view.
    """
    needs = needs_of(part)
    expected = ask(view)

    def difference(shown_needs: Needs) -> str | None:
        before = f"shown only what it declares ({needs})"
        try:
            check_same(expected, ask(bare(view, shown_needs)), where, before)
        except Broken as broken:
            return str(broken)
        except Exception as error:
            return f"{before}, {method} raised {type(error).__name__}: {error}"
        return None

    what = difference(needs)
    if what is None:
        return
    for _ in range(_AGAIN):
        if difference(needs) is None or not _alike(expected, ask(view), where):
            return  # the answer changes from call to call, which is another law's matter
    declared = attrs.asdict(needs, recurse=False)
    queries = 0 if view.queries is None else view.queries.shape[3]
    everything: dict[str, Any] = {
        "queries": queries,
        "attention": True,
        "sentences": True,
        "rotary": True,
        "records": needs.records,
        "model": needs.model,
    }
    missing = [
        name for name in declared if difference(Needs(**{**everything, name: declared[name]}))
    ]
    right = {
        name: ("N" if name == "queries" else True) if name in missing else value
        for name, value in declared.items()
    }
    remedy = ", ".join(f"{name}={value}" for name, value in right.items() if value)
    number = f", where N is how many queries {method} reads" if "queries" in missing else ""
    raise Broken(f"{what}\nDeclare what {method} reads: needs = Needs({remedy}){number}.")


def bare(view: CacheView, needs: Needs) -> CacheView:
    """The view with only those optional tensors that `needs` names."""
    queries = view.queries
    return attrs.evolve(
        view,
        queries=queries[:, :, :, -needs.queries :]
        if needs.queries and queries is not None
        else None,
        attention=view.attention if needs.attention else None,
        sentences=view.sentences if needs.sentences else None,
        rotation=view.rotation if needs.rotary else None,
        records={record: view.records[record] for record in needs.records},
    )


def alone(view: CacheView, row: list[int]) -> CacheView:
    """One row of a view, without the sentences of others, and with another number of its sequence.

    Args:
        view: the view.
        row: the index of the row, in a list.
    """
    own = {name: t[row] for name, t in _own_tensors(view).items()}
    number = int(own["sequences"])
    own["sequences"] = own["sequences"] + 1
    tables = view.sentences
    return attrs.evolve(
        view,
        **own,
        records={record: values[row] for record, values in view.records.items()},
        sentences=None if tables is None else [tables[number]] * (number + 2),
    )


def heads_of(view: CacheView, heads: Any) -> CacheView:
    """The heads of a view in another order."""
    per_head = {name: t for name, t in _own_tensors(view).items() if t.dim() > 2}
    return attrs.evolve(
        view,
        **{name: t[:, heads] for name, t in per_head.items()},
        records={record: values[:, heads] for record, values in view.records.items()},
    )


def _own_tensors(view: CacheView) -> dict[str, Any]:
    """The tensors of the view itself; those of sentence tables and of the rotation have no rows."""
    fields = {field.name for field in attrs.fields(CacheView)}
    return {name: tensor for name, tensor in tensors(view) if name in fields}


def with_other_empty_slots(view: CacheView, more: int, size: float | int) -> CacheView:
    """The view with `more` empty slots at the end, and `size` or -`size` in all empty slots."""

    def longer(tensor: Tensor, value: Any) -> Tensor:
        added = tensor.new_full((*tensor.shape[:2], more, *tensor.shape[3:]), value)
        return torch.cat([tensor, added], dim=2)

    positions = longer(view.positions, -1)

    def noisy(tensor: Tensor) -> Tensor:
        tensor = longer(tensor, size)
        sign = torch.ones_like(tensor)
        sign[..., 1::2] = -1  # along the last axis, so that sums may cancel or overflow
        empty = (positions < 0).reshape(*positions.shape, *(1,) * (tensor.dim() - 3))
        return torch.where(empty, sign * size, tensor)

    return attrs.evolve(
        view,
        keys=noisy(view.keys),
        values=noisy(view.values),
        positions=positions,
        protected=longer(view.protected, False),
        attention=None if view.attention is None else noisy(view.attention),
        records={record: noisy(values) for record, values in view.records.items()},
    )
