"""Observers see passes, tokens, compression events and completions. Policies know nothing of them.

Without observers no code of this file runs. Nothing is copied from the device unless an observer
reads it.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Generic, Literal, Protocol, TypeVar, runtime_checkable

import attrs
import torch
from jaxtyping import Float, Int
from torch import Tensor

from skipkv._calls import scores_of
from skipkv._types import CacheView, Request, SentenceTable
from skipkv._validators import kind_of
from skipkv.errors import ConfigError, InputError, ObserverError, SkipKVError
from skipkv.runtime.results.completion import Completion, EventRecord

_T = TypeVar("_T")
_METHODS = ("on_resume", "on_pass", "on_token", "on_event", "on_completion")


class Once(Generic[_T]):
    """A value that is read from the device when it is first asked for, during the call only.

    Args:
        name: of the value, for errors.
        read: reads it.
    """

    def __init__(self, name: str, read: Callable[[], _T]) -> None:
        self._name = name
        self._read: Callable[[], _T] | None = read
        self._value: _T | None = None

    def __call__(self) -> _T:
        """The value."""
        if self._value is None:
            if self._read is None:
                raise InputError(
                    f"{self._name} was not read while on_event ran, and is gone: the cache has "
                    "changed since. Read it there."
                )
            self._value = self._read()
        return self._value

    def close(self) -> None:
        """Read it no more; what has been read stays."""
        self._read = None


@attrs.frozen(kw_only=True)
class Scores:
    """The scores that an event gave to one sequence's entries, on the CPU.

    Args:
        positions: position of each entry before the event; -1 in an empty slot.
        values: the scorer's scores. An empty slot has any number.
        terms: the scores of each term of the scorer, with its weight, by the term's repr. They sum
            to the values. Empty unless an observer asks for `terms`.
    """

    positions: Int[Tensor, "layers H L"]
    values: Float[Tensor, "layers H L"]
    terms: Mapping[str, Float[Tensor, "layers H L"]]


@attrs.frozen(kw_only=True)
class SequenceEvent:
    """A compression event of one sequence.

    Args:
        index: which prompt, from 0.
        sample: which sample of it, from 0.
        request: what was asked for, with the prompt's token ids; None under `attach`.
        prompt_tokens: length of the prompt.
        seen: tokens the sequence has seen.
        compressed: whether it exceeded its budget, and scorer and evictor chose what stays.
        entries: most entries that a head held before.
        evicted: entries dropped, summed over layers and KV heads.
        error: why the sequence ends here, if it does.
        sentences: its closed sentences, on the device; None where the policy reads none.
    """

    index: int
    sample: int
    request: Request | None = attrs.field(repr=False)
    prompt_tokens: int
    seen: int
    compressed: bool
    entries: int
    evicted: int
    error: SkipKVError | None
    sentences: SentenceTable | None = attrs.field(repr=False)
    _kept: Once[Tensor] = attrs.field(repr=False)
    _scores: Once[Scores] | None = attrs.field(repr=False)

    @property
    def kept(self) -> Int[Tensor, "layers H K"]:
        """Positions held after the event, on the CPU, filled up with -1; copied when first read."""
        return self._kept()

    @property
    def scores(self) -> Scores | None:
        """Scores before the event, copied when first read.

        None where nothing was scored, or no observer asks for `scores` or `terms`.
        """
        return None if self._scores is None else self._scores()

    def close(self) -> None:
        """Its observers were told: what they have not read is gone."""
        self._kept.close()
        if self._scores is not None:
            self._scores.close()

    def record(self) -> EventRecord:
        """What `Completion.trace` has of the event."""
        return EventRecord(
            seen=self.seen, entries=self.entries, evicted=self.evicted, kept=self.kept
        )


@attrs.frozen(kw_only=True)
class ObservedEvent:
    """Compression events of sequences that had theirs together.

    Args:
        sequences: an event each.
        prompt: whether it came while their prompts were fed.
    """

    sequences: tuple[SequenceEvent, ...]
    prompt: bool


@attrs.frozen(kw_only=True)
class Steered:
    """What a steerer did in one forward pass, on the device.

    Args:
        positions: the position of each row's newest token.
        strength: the Euclidean norm of what was added to each row's hidden state there; 0 where the
            steerer did not act.
    """

    positions: Int[Tensor, "B"]
    strength: Float[Tensor, "B"]


@attrs.frozen(kw_only=True)
class ObservedPass:
    """Forward passes between two looks at the tokens.

    Args:
        kind: "prompt" is one pass that feeds prompts, "step" one or more decode steps.
        steps: how many decode steps; 0 for prompts.
        rows: (index, sample) of each row's sequence, in the order of the rows.
        fed: tokens of each row that one pass fed.
        steered: a value for each pass in which the steerer was asked, in their order. Empty unless
            an observer asks for `steering`.
    """

    kind: Literal["prompt", "step"]
    steps: int
    rows: tuple[tuple[int, int], ...]
    fed: tuple[int, ...]
    steered: tuple[Steered, ...]


@attrs.frozen(kw_only=True)
class ObservedToken:
    """A decoded token.

    Args:
        index: which prompt, from 0.
        sample: which sample of it, from 0.
        token: its id.
        position: its position in the sequence, the prompt included.
    """

    index: int
    sample: int
    token: int
    position: int


@runtime_checkable
class Observer(Protocol):
    """What observes a decode: inherit from it, and write the methods that you need.

    The methods here do nothing, and a method that is not written is never called. They are called
    in the thread that decodes, which waits for them. An error that one raises ends the decode as an
    `ObserverError` that names the observer; in a server it ends the requests that run.

    Attributes:
        scores: whether it reads `SequenceEvent.scores`, so that events keep scores for it.
        terms: whether it reads the scores of each term. Terms are then scored twice.
        steering: whether it reads `ObservedPass.steered`.

    Example:
        >>> from skipkv import Engine, presets
        >>> from skipkv.testing import toy_model, toy_tokenizer
        >>> class Evictions(Observer):
        ...     def on_event(self, event):
        ...         print([(e.index, e.seen, e.evicted) for e in event.sequences])
        >>> policy = presets.streaming_llm(16, interval=8)
        >>> engine = Engine(toy_model(layers=1, heads=1), toy_tokenizer(), policy)
        >>> _ = list(engine.generate([[9] * 12], max_new_tokens=16, observers=[Evictions()]))
        [(0, 12, 0)]
        [(0, 17, 1)]
        [(0, 25, 8)]
    """

    scores: bool = False
    terms: bool = False
    steering: bool = False

    def on_resume(self) -> None:
        """Decoding begins, or goes on after the caller has had a result."""
        return

    def on_pass(self, passed: ObservedPass) -> None:
        """Forward passes are done, and their tokens are read. Their token calls come before."""
        return

    def on_token(self, token: ObservedToken) -> None:
        """A token was decoded. On an accelerator 16 may come at once."""
        return

    def on_event(self, event: ObservedEvent) -> None:
        """Sequences have had a compression event.

        A sequence is told of even where it was within its budget. If sequences share a prompt or a
        prefix, the events of what they share are told for each of them: for the first one when they
        happen, and for another one when it takes over. It then has what observers read the first
        time.
        """
        return

    def on_completion(self, completion: Completion) -> None:
        """A sequence is done; also one that was refused."""
        return


class Observers:
    """The observers of a decode, each asked only for what it has methods for.

    Args:
        observers: some, at least one.

    Raises:
        ConfigError: one of them is no observer, or has written none of its methods.
    """

    def __init__(self, observers: Iterable[Any]) -> None:
        self._methods: dict[str, list[tuple[Any, Callable[..., Any]]]] = {}
        self.scores = self.terms = self.steering = False
        for observer in observers:
            written = [name for name in _METHODS if _writes(observer, name)]
            if isinstance(observer, type) or not isinstance(observer, Observer) or not written:
                raise ConfigError(
                    f"observers must hold observers, got {kind_of(observer)}. An observer inherits "
                    f"from skipkv.Observer and writes at least one of {', '.join(_METHODS)}."
                )
            for name in written:
                self._methods.setdefault(name, []).append((observer, getattr(observer, name)))
            self.scores |= observer.scores
            self.terms |= observer.terms
            self.steering |= observer.steering
        self.passes, self.tokens, self.events = (
            name in self._methods for name in ("on_pass", "on_token", "on_event")
        )
        self.steering &= self.passes  # else what is kept would never be taken

    def tell(self, method: str, *values: object) -> None:
        """Call a method of all that have it.

        Raises:
            ObserverError: one of them raised an error.
        """
        for observer, call in self._methods.get(method, ()):
            try:
                call(*values)
            except Exception as cause:
                raise ObserverError(
                    f"{_name(observer)}.{method} raised {type(cause).__name__}: {cause}"
                ) from cause


def _writes(observer: Any, method: str) -> bool:
    """Whether an observer has a method of its own."""
    found = getattr(observer, method, None)
    return callable(found) and getattr(found, "__func__", found) is not getattr(Observer, method)


def _name(observer: object) -> str:
    try:
        return repr(observer)
    except Exception:  # the observer's own code
        return object.__repr__(observer)


class ScoreLog:
    """Keeps the scores of one event, on the device, until its observers have been told.

    Args:
        scorer: the policy's scorer.
        terms: whether its terms are scored too.
    """

    def __init__(self, scorer: Any, *, terms: bool) -> None:
        parts = getattr(scorer, "terms", None) or (scorer,)
        self._terms = {repr(part): part for part in parts} if terms else {}
        # Per lane, the chunks of layers: numbers of the layers, positions, scores and the scores of
        # each term. Layers of one budget come together, so chunks differ in their slots.
        self._chunks: dict[int, list[tuple[Tensor, list[Tensor]]]] = {}

    def add(self, lanes: Sequence[int], view: CacheView, scores: Float[Tensor, "R H L"]) -> None:
        """Keep the scores of some layers.

        Args:
            lanes: of the sequences; row r is sequence r % n of these.
            view: what was scored.
            scores: its scores.
        """
        terms = (scores_of(term, view) for term in self._terms.values())
        # copies: scores may be a view of the cache, which the event changes before they are read
        chunk = [
            tensor.clone().unflatten(0, (-1, len(lanes)))
            for tensor in (view.positions, scores, *terms)
        ]
        layers = view.layers.unflatten(0, (-1, len(lanes)))
        for number, lane in enumerate(lanes):
            own = layers[:, number], [tensor[:, number] for tensor in chunk]
            self._chunks.setdefault(lane, []).append(own)

    def of(self, lane: int) -> Once[Scores] | None:
        """The scores of a lane's entries; None where there are none."""
        chunks = self._chunks.get(lane)
        return None if chunks is None else Once("SequenceEvent.scores", lambda: self._read(chunks))

    def _read(self, chunks: list[tuple[Tensor, list[Tensor]]]) -> Scores:
        order = torch.cat([layers for layers, _ in chunks]).argsort()
        width = max(positions.shape[2] for _, (positions, *_) in chunks)

        def joined(parts: Sequence[Tensor], fill: int) -> Tensor:
            wide = [torch.nn.functional.pad(p, (0, width - p.shape[2]), value=fill) for p in parts]
            return torch.cat(wide)[order].cpu()

        positions, *scores = zip(*(tensors for _, tensors in chunks), strict=True)
        values, *terms = (joined(parts, 0) for parts in scores)
        return Scores(
            positions=joined(positions, -1),
            values=values,
            terms=dict(zip(self._terms, terms, strict=True)),
        )


class EventLog(Observer):
    """Records events for `Completion.trace`: those in which scorer and evictor chose."""

    def __init__(self) -> None:
        self._records: dict[tuple[int, int], list[EventRecord]] = {}

    def on_event(self, event: ObservedEvent) -> None:
        """Record what each sequence kept."""
        for one in event.sequences:
            if one.compressed:
                self._records.setdefault((one.index, one.sample), []).append(one.record())

    def of(self, index: int, sample: int) -> tuple[EventRecord, ...]:
        """The events of a sequence so far."""
        return tuple(self._records.get((index, sample), ()))

    def take(self, index: int, sample: int) -> tuple[EventRecord, ...]:
        """The events of a sequence that is done; they are forgotten here."""
        return tuple(self._records.pop((index, sample), ()))
