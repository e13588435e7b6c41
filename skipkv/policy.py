"""A policy: five parts and a budget, checked when it is built."""

from typing import TypedDict, Unpack

import attrs

from skipkv._calls import parts_of, writers_of
from skipkv._protocols import require, require_optional
from skipkv._types import Memory, Needs, needs_of
from skipkv._validators import is_a
from skipkv.budget import Budget, LinearShares
from skipkv.errors import ConfigError
from skipkv.evictors import Evictor, KeepAll, TopK
from skipkv.evictors.protocol import mixes_layers
from skipkv.schedulers import BatchScheduler, Continuous
from skipkv.scorers import Recency, Scorer
from skipkv.scorers.protocol import OptionalMethods
from skipkv.segmenters import Newline, Segmenter
from skipkv.steerers import NoSteering, Steerer

__all__ = ["Budget", "LinearShares", "Policy"]


class _Fields(TypedDict, total=False):
    """The fields of a policy, as `Policy.with_` takes them."""

    budget: Budget | None
    scorer: Scorer
    evictor: Evictor
    segmenter: Segmenter
    steerer: Steerer
    scheduler: BatchScheduler


@attrs.frozen(kw_only=True)
class Policy:
    """How a model thinks in a bounded cache: a composition of five small parts under a budget.

    Parts decide and do not know the model; the runtime does the rest. Building a policy checks
    every part against its protocol and finds what the runtime must record for them.

    Args:
        budget: entries a row may hold; None keeps everything (then scorer and evictor are
            unused).
        scorer: gives every entry a score.
        evictor: chooses which entries stay.
        segmenter: cuts the stream into sentences; unused unless some part needs sentences.
        steerer: adds a vector to hidden states.
        scheduler: decides which requests decode together.

    Raises:
        ProtocolError: a part lacks a method of its protocol or takes other arguments.
        ConfigError: a part observes more recent tokens than the budget's window protects, the
            evictor joins layers that differ in their budgets, or a record that a part reads is
            written by none or by two.

    Example:
        >>> from skipkv.scorers import KeyRedundancy, WindowAttention
        >>> policy = Policy(
        ...     budget=Budget(tokens=1024),
        ...     scorer=0.1 * WindowAttention(window=8) - 0.9 * KeyRedundancy(),
        ... )
        >>> policy.needs
        Needs(queries=8)
    """

    budget: Budget | None = attrs.field(default=None, validator=is_a(Budget, optional=True))
    scorer: Scorer = attrs.field(factory=Recency)
    evictor: Evictor = attrs.field(
        default=attrs.Factory(lambda self: KeepAll() if self.budget is None else TopK(), True)
    )
    segmenter: Segmenter = attrs.field(factory=Newline)
    steerer: Steerer = attrs.field(factory=NoSteering)
    scheduler: BatchScheduler = attrs.field(factory=Continuous)

    def __attrs_post_init__(self) -> None:
        require(self.scorer, Scorer, "Policy.scorer")
        require(self.evictor, Evictor, "Policy.evictor")
        for field, part in ("scorer", self.scorer), ("evictor", self.evictor):
            for one in parts_of(part):
                require_optional(one, OptionalMethods, f"Policy.{field}")
        require(self.segmenter, Segmenter, "Policy.segmenter")
        require(self.steerer, Steerer, "Policy.steerer")
        require(self.scheduler, BatchScheduler, "Policy.scheduler")
        if self.budget is not None and self.needs.queries > self.budget.window:
            raise ConfigError(
                f"Policy.scorer observes the last {self.needs.queries} queries and leaves their "
                f"entries unscored, but Budget(window={self.budget.window}) does not protect them. "
                f"Set Budget(window={self.needs.queries}) or observe fewer."
            )
        if self.budget is not None and self.budget.layers and mixes_layers(self.evictor):
            raise ConfigError(
                f"{self.evictor!r} keeps the same tokens in all layers, and Budget(layers=...) "
                "gives layers different budgets. Leave one of them out."
            )

        written = needs_of(self.scorer).records if hasattr(self.scorer, "remember") else ()
        for record in self.needs.records:
            if isinstance(record, Memory) and record not in written:
                raise ConfigError(
                    f"A part of the policy reads {record!r}, which Policy.scorer does not write: "
                    "it needs a method remember(view), and must declare the memory in `needs`."
                )
        writers = writers_of(self.scorer, self.evictor)
        for entry in self.needs.written:
            said_by = [part for part in writers if entry in needs_of(part).written]
            if len(said_by) > 1:
                raise ConfigError(
                    f"{said_by[0]!r} and {said_by[1]!r} both write {entry!r}, so both would read "
                    "what the second one wrote. Take one scorer in both places, or derive a class "
                    "whose record has another name."
                )
            if not said_by:
                raise ConfigError(
                    f"A part of the policy reads {entry!r}, which no part writes: one needs a "
                    "method on_write(keys, values, hidden, layer), and must declare the record in "
                    "`needs`."
                )

    @property
    def needs(self) -> Needs:
        """What the runtime must record: the union over the parts."""
        if self.budget is None:
            return needs_of(self.steerer)
        return needs_of(self.scorer) | needs_of(self.evictor) | needs_of(self.steerer)

    def with_(self, **changes: Unpack[_Fields]) -> "Policy":
        """A copy with other fields, which is checked: `policy.with_(steerer=NoSteering())`.

        Args:
            changes: the fields to exchange, under the names that `Policy` gives them.

        Raises:
            ConfigError: a policy has no field of that name, or the new parts do not fit.
        """
        names = [field.name for field in attrs.fields(type(self))]
        if unknown := [name for name in changes if name not in names]:
            raise ConfigError(
                f"Policy.with_ takes no {', '.join(unknown)}. A policy has: {', '.join(names)}."
            )
        return attrs.evolve(self, **changes)
