"""The exclusive use of a model, and the state it is in meanwhile."""

import threading
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from weakref import WeakKeyDictionary

import torch
from torch import Tensor
from transformers import PreTrainedModel

from skipkv.errors import InputError, UnsupportedModelError
from skipkv.runtime.seam.cache import this_thread
from skipkv.runtime.seam.functions import NAME, originals

ATTACH = "skipkv.attach"
"""The name, in errors, of the borrower of a model that a policy is attached to."""


class _Loan:
    """The current borrower of a model: one at a time may exchange its attention and its cache."""

    def __init__(self) -> None:
        self.changed = threading.Condition()
        self.holder: str | None = None
        self.thread = 0
        self.queue: deque[object] = deque()  # of those who wait, first come, first served


_loans: "WeakKeyDictionary[torch.nn.Module, _Loan]" = WeakKeyDictionary()
_new_loan = threading.Lock()


@contextmanager
def borrowed(model: PreTrainedModel, *, by: str) -> Iterator[None]:
    """Within this context, passes of ours attend through our cache; afterwards as before.

    A model has one borrower at a time. An engine waits while an engine in another thread decodes
    with the model; the one that has waited longest is next. It does not wait for `attach`, which
    may last for ever.

    Args:
        model: the model to borrow.
        by: the borrower: "Engine" or `ATTACH`.

    Raises:
        InputError: a policy is attached to the model, or this thread uses it already.
        UnsupportedModelError: the model's attention is "skipkv", and it has not been borrowed.
    """
    with _new_loan:
        loan = _loans.setdefault(model, _Loan())
    place = object()
    with loan.changed:
        loan.queue.append(place)
        try:
            while loan.holder is not None or loan.queue[0] is not place:
                if loan.holder is not None:
                    _refuse_held(loan)
                loan.changed.wait()
            loan.holder, loan.thread = by, threading.get_ident()
        finally:
            loan.queue.remove(place)
    try:
        with _switched(model):
            yield
    finally:
        with loan.changed:
            loan.holder = None
            loan.changed.notify_all()


@contextmanager
def queries_seen(model: PreTrainedModel, see: Callable[[int, Tensor], None]) -> Iterator[None]:
    """Within this context passes of the model itself show their queries.

    Args:
        model: decodes nothing meanwhile.
        see: called in every attention with the number of the layer and its queries [B, Q, T, D],
            as they are after RoPE.
    """
    with borrowed(model, by="calibration"):
        this_thread.see = see
        try:
            yield
        finally:
            this_thread.see = None


def check_free(model: PreTrainedModel) -> None:
    """Raise `InputError` if `borrowed` would raise it now, before any work is done."""
    loan = _loans.get(model)
    if loan is not None and loan.holder is not None:
        _refuse_held(loan)


def _refuse_held(loan: _Loan) -> None:
    same = loan.thread == threading.get_ident()
    if loan.holder == ATTACH or same:
        where = "" if same else " in another thread"
        raise InputError(
            f"The model is in use by {loan.holder}{where}. One policy at a time decodes with a "
            "model: leave the `with skipkv.attach(...)` block first, or load the model twice."
            if loan.holder == ATTACH
            else "The model is in use by an Engine whose decoding called this. Use another model "
            "object, or wait until the Engine has yielded."
        )


@contextmanager
def _switched(model: PreTrainedModel) -> Iterator[None]:
    """Exchange the attention of a model and its parts; restore the original at the end."""
    configs = {
        id(part.config): part.config
        for part in model.modules()
        if isinstance(part, PreTrainedModel)
    }
    before = {key: config._attn_implementation for key, config in configs.items()}
    if NAME in before.values():
        raise UnsupportedModelError(
            f'The attention of this model is "{NAME}", but no policy decodes with the model: it '
            "was copied or saved while a policy was attached to it. Call "
            "model.set_attn_implementation('sdpa') first."
        )
    originals.update(before)
    try:
        for config in configs.values():
            # What set_attn_implementation() does, which refuses models defined in a notebook. A
            # model that ignores the setting fails at the end of its first pass.
            config._attn_implementation = NAME
        yield
    finally:
        for key, config in configs.items():
            config._attn_implementation = before[key]
            del originals[key]


@contextmanager
def evaluating(model: PreTrainedModel) -> Iterator[None]:
    """Within this context the model and its parts are in evaluation mode; afterwards as before."""
    training = [part for part in model.modules() if part.training]
    for part in training:
        part.training = False
    try:
        yield
    finally:
        for part in training:
            part.training = True


def no_gradient(model: torch.nn.Module) -> torch.no_grad | torch.inference_mode:
    """A context without gradients: inference mode, where the model's weights work in it.

    Some of quanto's do not: they make views of themselves, as a tensor of inference mode may not.
    """
    kinds = {type(parameter).__module__ for parameter in model.parameters()}
    if any(kind.startswith("optimum.quanto") for kind in kinds):
        return torch.no_grad()
    return torch.inference_mode()
