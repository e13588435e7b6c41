"""A policy: five parts and a budget, checked when it is built."""

import math
from typing import TypedDict, Unpack

import attrs
from jaxtyping import Bool, Int
from torch import Tensor

from skipkv._protocols import require
from skipkv._types import Memory, Needs, needs_of
from skipkv._validators import is_a
from skipkv.errors import ConfigError
from skipkv.evictors import Evictor, KeepAll, TopK
from skipkv.schedulers import BatchScheduler, Continuous
from skipkv.scorers import Recency, Scorer
from skipkv.segmenters import Newline, Segmenter
from skipkv.steerers import NoSteering, Steerer

__all__ = ["Budget", "Policy"]


@attrs.frozen(kw_only=True)
class Budget:
    """How many entries a row may hold per KV head, and which of them are never dropped.

    Either `tokens` or `ratio` says how many entries remain after a compression event. Events follow
    the forward pass that appends token number k * interval + 1 of a sequence (as in the published
    implementations), and the end of a prompt that exceeds the budget.

    Under `tokens` a row never holds more than budget + interval entries: a longer prompt is fed in
    pieces, with an event after each. Under a `ratio` a prompt is fed whole, since the ratio refers
    to the whole prompt.

    Args:
        tokens: entries kept, in tokens.
        ratio: entries kept, as a share of the tokens seen so far, in (0, 1].
        interval: decode steps between two compression events, in tokens.
        window: most recent tokens, always kept.
        sinks: first tokens of the sequence, always kept.
        prompt: keep the whole prompt as well.

    Raises:
        ConfigError: unless exactly one of `tokens` and `ratio` is given and `tokens` leaves room
            beside what is protected.

    Example:
        >>> Budget(tokens=1024, window=8).capacity
        1152
    """

    tokens: int | None = attrs.field(default=None, validator=is_a(int, optional=True))
    ratio: float | None = attrs.field(default=None, validator=is_a(float, optional=True))
    interval: int = attrs.field(default=128, validator=is_a(int))
    window: int = attrs.field(default=8, validator=is_a(int, least=0))
    sinks: int = attrs.field(default=0, validator=is_a(int, least=0))
    prompt: bool = attrs.field(default=False, validator=is_a(bool))

    def __attrs_post_init__(self) -> None:
        if (self.tokens is None) == (self.ratio is None):
            raise ConfigError(
                f"Budget takes either tokens or ratio, got tokens={self.tokens!r} and "
                f"ratio={self.ratio!r}. Give exactly one."
            )
        if self.interval < 1:
            raise ConfigError(
                f"Budget(interval={self.interval}) must be at least 1: it is the number of decode "
                "steps from one compression event to the next."
            )
        if self.tokens is not None and self.tokens <= self.window + self.sinks:
            raise ConfigError(
                f"Budget(tokens={self.tokens}) must exceed the window and sinks it protects "
                f"({self.window} + {self.sinks}). Raise tokens or shrink them."
            )
        if self.ratio is not None and not 0 < self.ratio <= 1:
            raise ConfigError(f"Budget(ratio={self.ratio}) must lie in (0, 1].")

    @property
    def capacity(self) -> int | None:
        """Entries a row may hold between events, budget + interval; None under a `ratio`."""
        return None if self.tokens is None else self.tokens + self.interval

    def allowed(self, seen: int, prompt: int = 0) -> int:
        """Entries per head a row may keep after an event.

        Under a ratio it is at least one entry more than are protected.

        Args:
            seen: tokens the row's sequence has seen.
            prompt: length of its prompt, in tokens; used if the prompt is protected.
        """
        if self.tokens is not None:
            return self.tokens
        assert self.ratio is not None  # held by the constructor
        first = max(self.sinks, prompt) if self.prompt else self.sinks
        return max(math.ceil(self.ratio * seen), first + self.window + 1)

    def protected(
        self, positions: Int[Tensor, "R H L"], seen: Int[Tensor, "R"], prompt: Int[Tensor, "R"]
    ) -> Bool[Tensor, "R H L"]:
        """Entries that an evictor must keep: window, sinks and, if asked for, the prompt.

        Args:
            positions: positions of the entries; -1 in empty slots.
            seen: tokens seen by each row's sequence.
            prompt: length of its prompt, in tokens.
        """
        first = prompt.clamp_min(self.sinks) if self.prompt else prompt.new_full((), self.sinks)
        kept = (positions < first.reshape(-1, 1, 1)) | (
            positions >= (seen - self.window)[:, None, None]
        )
        return kept & (positions >= 0)


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
        ConfigError: a part observes more recent tokens than the budget's window protects.

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
        require(self.segmenter, Segmenter, "Policy.segmenter")
        require(self.steerer, Steerer, "Policy.steerer")
        require(self.scheduler, BatchScheduler, "Policy.scheduler")
        if self.budget is not None and self.needs.queries > self.budget.window:
            raise ConfigError(
                f"Policy.scorer observes the last {self.needs.queries} queries and leaves their "
                f"entries unscored, but Budget(window={self.budget.window}) does not protect them. "
                f"Set Budget(window={self.needs.queries}) or observe fewer."
            )

        written = needs_of(self.scorer).records if hasattr(self.scorer, "remember") else ()
        for record in self.needs.records:
            if isinstance(record, Memory) and record not in written:
                raise ConfigError(
                    f"A part of the policy reads {record!r}, which Policy.scorer does not write: "
                    "it needs a method remember(view), and must declare the memory in `needs`."
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
