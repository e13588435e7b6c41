"""The laws of steerers."""

from collections.abc import Mapping
from typing import Any

import attrs
import torch
from hypothesis import strategies as st
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from skipkv._calls import tensors
from skipkv._types import SteeringContext
from skipkv.steerers import Steerer
from skipkv.testing.laws.common import (
    check_same,
    check_tensor,
    check_unchanged,
    protocol_law,
    snapshot,
)
from skipkv.testing.laws.law import Broken, Case, Law, hold_all
from skipkv.testing.laws.scorer import SEVERAL, one_row
from skipkv.testing.laws.shown import shown
from skipkv.testing.strategies import hidden_states, steering_contexts

# Operations that read a value from the device, or a shape that depends on values.
_READS = {"_local_scalar_dense", "nonzero", "masked_select", "equal", "is_nonzero"}

_ROWS = st.integers(1, 3)


@attrs.frozen
class Steered:
    """A steerer, and the hidden size with which its laws are checked."""

    steerer: Any
    hidden_size: int | None

    def __repr__(self) -> str:
        return repr(self.steerer)

    def drawn(self, case: Case, rows: Any = _ROWS) -> tuple[Tensor, SteeringContext]:
        """A decode step: hidden states, and where each row stands."""
        context = case.draw("context", steering_contexts(rows=rows))
        made_for = self.hidden_size or getattr(self.steerer, "width", None)
        size = st.integers(1, 4) if made_for is None else made_for
        count = context.positions.shape[0]
        return case.draw("hidden", hidden_states(rows=count, size=size)), context

    def delta(self, hidden: Tensor, context: SteeringContext) -> Tensor:
        """The change that the steerer adds."""
        delta: Tensor = self.steerer.delta(hidden, context)
        return delta


class _NoReads(TorchDispatchMode):
    """A mode in which an operation that waits for values breaks the law."""

    def __torch_dispatch__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        name = str(function).split(".")[1]
        if name in _READS:
            raise Broken(f"delta called {function}, which waits for the device.")
        return function(*args, **(kwargs or {}))


def _protocol(part: Any, case: Case) -> None:
    _SHAPE.check(part.steerer, case)


def _layer(part: Any, case: Case) -> None:
    layer = part.steerer.layer
    if layer is not None and (not isinstance(layer, int) or isinstance(layer, bool) or layer < 0):
        raise Broken(f"layer is {layer!r}.")


def _answer(part: Any, case: Case) -> None:
    hidden, context = part.drawn(case)
    dtype = case.draw("dtype", st.sampled_from([torch.float32, torch.bfloat16]))
    check_tensor(part.delta(hidden.to(dtype), context), "[R, E]", hidden, dtype, "delta")


def _finite(part: Any, case: Case) -> None:
    hidden, context = part.drawn(case)
    delta = part.delta(hidden, context)
    if not torch.isfinite(delta).all():
        raise Broken(f"delta returned {shown(delta)}.")


def _delimiter(part: Any, case: Case) -> None:
    hidden, context = part.drawn(case)
    delta = part.delta(hidden, context)
    wrong = (delta != 0).any(dim=-1) & ~(context.at_delimiter & context.thinking)
    if wrong.any():
        row = int(wrong.nonzero()[0])
        raise Broken(f"delta for row {row} was {shown(delta[row])}, and it is at no such place.")


def _rows(part: Any, case: Case) -> None:
    hidden, context = part.drawn(case, rows=SEVERAL)
    rows = case.draw("row", one_row(hidden.shape[0]))
    one = SteeringContext(**{name: tensor[rows] for name, tensor in tensors(context)})
    alone = part.delta(hidden[rows], one)
    expected = part.delta(hidden, context)[rows]
    check_same(expected, alone, torch.ones_like(alone).bool(), "with that row alone")


def _deterministic(part: Any, case: Case) -> None:
    hidden, context = part.drawn(case)
    before = part.delta(hidden, context).clone()
    part.delta(hidden + 1, context)
    again = part.delta(hidden, context)
    check_same(before, again, torch.ones_like(before).bool(), "asked a second time")


def _pure(part: Any, case: Case) -> None:
    hidden, context = part.drawn(case)
    before, given = snapshot(context), hidden.clone()
    part.delta(hidden, context)
    check_unchanged(context, before, "delta")
    if not torch.equal(hidden, given):
        raise Broken(f"delta changed hidden in place to {shown(hidden)}.")


def _no_waiting(part: Any, case: Case) -> None:
    hidden, context = part.drawn(case)
    with _NoReads():  # type: ignore[no-untyped-call]
        part.steerer.delta(hidden, context)


_SHAPE = protocol_law(Steerer, "the steerer")
LAWS = (
    attrs.evolve(_SHAPE, check=_protocol),
    Law(
        name="layer",
        says="layer is a whole number from 0 on, or None for a steerer that does nothing.",
        why="the runtime hooks that layer of the model.",
        check=_layer,
        basic=True,
    ),
    Law(
        name="answer",
        says="delta returns [R, E] in the dtype of `hidden`.",
        why="it is added to the layer's input, which must stay in the model's dtype.",
        check=_answer,
        basic=True,
    ),
    Law(
        name="pure",
        says="delta changes neither the hidden states nor the context.",
        why="the runtime adds what delta returns; a change in place would count twice.",
        check=_pure,
        basic=True,
    ),
    Law(
        name="finite",
        says="A delta is finite where the hidden state is.",
        why="one NaN in a hidden state makes every token after it NaN.",
        check=_finite,
    ),
    Law(
        name="delimiter",
        says="delta is zero for rows that are not at a delimiter inside the thinking part.",
        why="steering changes the next thought; inside a sentence, or in the answer, it garbles "
        "the text.",
        check=_delimiter,
    ),
    Law(
        name="rows",
        says="A row's delta depends on that row alone.",
        why="rows are other users' sequences: an answer must not depend on the sequences decoded "
        "with it.",
        check=_rows,
    ),
    Law(
        name="deterministic",
        says="The same rows get the same delta, whatever was asked before.",
        why="one steerer serves all sequences, so state in it changes later sequences; counts that "
        "last are in the context.",
        check=_deterministic,
    ),
    Law(
        name="no waiting",
        says="delta reads no value back from the device: no .item(), no `if tensor`, no mask as "
        "an index.",
        why="it is called at every decode step, and each read makes an accelerator wait.",
        check=_no_waiting,
    ),
)


def check_steerer(
    steerer: Steerer,
    *,
    hidden_size: int | None = None,
    claims: Mapping[str, str] | None = None,
    examples: int = 100,
) -> None:
    """Hold a steerer to the laws of its protocol.

    Args:
        steerer: any steerer.
        hidden_size: the hidden size it is made for. Default: its `width`, or any if it has none.
        claims: laws that it breaks on purpose, each with the reason. A claimed law that it keeps
            is an error too.
        examples: decode steps tried per law.

    Raises:
        ConformanceError: a law is broken; the message shows the smallest step on which it is.
        ConfigError: `claims` names something that is not a law, or gives no reason.

    Example:
        >>> from skipkv.steerers import NoSteering
        >>> check_steerer(NoSteering(), examples=10)
    """
    hold_all(LAWS, Steered(steerer, hidden_size), claims, examples)
