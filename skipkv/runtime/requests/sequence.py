"""One sequence: what was asked for, where it stands, what it has given and what it has cost."""

import time
from collections import abc

import attrs
import torch
from jaxtyping import Float

from skipkv._types import Request
from skipkv.errors import SkipKVError
from skipkv.runtime.parts.sentences import SentenceTracker
from skipkv.runtime.requests.prefill import Reading
from skipkv.runtime.requests.prefix import Prefix, PrefixState
from skipkv.runtime.requests.sampling import Sampling
from skipkv.runtime.results.completion import Stats, StopReason
from skipkv.runtime.results.observers import SequenceEvent
from skipkv.runtime.text.stopping import StopFinder


@attrs.frozen(kw_only=True, eq=False)
class Order(Request):
    """A request, with what only the loop reads. An order equals itself alone.

    Args:
        sampling: how its tokens are chosen.
        stop: strings at which it ends.
        prefix: the beginning that its prompt has in common with others.
    """

    sampling: Sampling = attrs.field(factory=Sampling)
    stop: tuple[str, ...] = ()
    prefix: Prefix | None = attrs.field(default=None, repr=False)

    def __eq__(self, other: object) -> bool:
        return self is other

    def __hash__(self) -> int:
        return id(self)


@attrs.define(kw_only=True, eq=False)
class Sequence:
    """All that the host knows of one sequence, from its first token to its last.

    The session adds it to its list, and keeps `lane` up to date. The loop adds tokens to it, and
    hands it out when it is done. Under `attach` no request belongs to it.

    Args:
        prompt_tokens: length of its prompt.
        most_tokens: tokens it can come to, prompt included; None where that is unknown.
    """

    # What was asked for.
    _request: Order | None = None
    prompt_tokens: int
    most_tokens: int | None = None
    uniforms: Float[torch.Tensor, "K"] | None = None  # a random number for each token
    finder: StopFinder | None = None

    # Where it stands.
    lane: int = -1
    reading: Reading = attrs.field(
        default=attrs.Factory(lambda self: Reading(ends=[self.prompt_tokens]), takes_self=True)
    )
    tracker: SentenceTracker | None = None
    unread: list[int] = attrs.field(factory=list)  # fed, and not yet given to the tracker

    # What it has given.
    tokens: list[int] = attrs.field(factory=list)
    told: int = 0  # how many of the tokens `fresh` has returned
    reason: StopReason | None = None  # once it is done
    stop_string: str | None = None
    error: SkipKVError | None = None  # a part broke on it, or the model; it cannot go on

    # What it has cost.
    started: float = attrs.field(factory=time.perf_counter)
    padding: int = 0  # to the longest prompt admitted with it; never stored
    events: int = 0
    evicted: int = 0
    evicted_at: int = 0  # the sum of tokens seen when an entry was dropped, over those dropped
    peak_entries: int = 0  # before the events so far
    # Events of a prompt that others wait to share, where events are observed.
    shared: list[SequenceEvent] | None = None
    stats: Stats = attrs.field(factory=Stats.nothing)  # once it is done

    @property
    def request(self) -> Order:
        """The request it decodes; under `attach` it has none."""
        assert self._request is not None
        return self._request

    def share_prompt(self, source: "Sequence") -> None:
        """Take over what another sequence has from the same prompt, which has just been fed."""
        self.reading = source.reading
        self.tracker = None if source.tracker is None else source.tracker.copy()
        self.reason, self.error = source.reason, source.error
        self.events, self.evicted, self.evicted_at = (
            source.events,
            source.evicted,
            source.evicted_at,
        )
        self.peak_entries = source.peak_entries
        self.shared = source.shared

    @property
    def asked(self) -> Order | None:
        """The request it decodes; None under `attach`."""
        return self._request

    @property
    def index(self) -> int:
        """Number of its prompt; under `attach`, its row."""
        return self.lane if self._request is None else self._request.index

    @property
    def sample(self) -> int:
        """Which sample of its prompt it is."""
        return 0 if self._request is None else self._request.sample

    @property
    def age(self) -> float:
        """Seconds since it started."""
        return time.perf_counter() - self.started

    @property
    def grown(self) -> bool:
        """Whether tokens have come since the last call of `fresh`."""
        return self.told < len(self.tokens)

    @property
    def at_prefix(self) -> bool:
        """Whether exactly the prefix of its prompt has been fed."""
        prefix = self.request.prefix
        return prefix is not None and self.reading.fed == len(prefix.ids)

    def begin_after(self, state: PrefixState) -> None:
        """Take over what another sequence had when it had read this one's prefix."""
        self.reading.fed = state.tokens
        if state.tracker is not None:
            self.tracker = state.tracker.copy(prompt=self.prompt_tokens)
        self.events, self.evicted = state.events, state.evicted
        self.evicted_at = state.evicted * self.prompt_tokens
        self.peak_entries = state.peak_entries
        self.shared = [*state.shared]

    def fresh(self) -> list[int]:
        """The tokens that have come since the last call."""
        start, self.told = self.told, len(self.tokens)
        return self.tokens[start:]

    def fed(self, tokens: abc.Iterable[int]) -> None:
        """Remember tokens that were fed after the prompt, for the segmenter to read."""
        if self.tracker is not None:
            self.unread += tokens

    def lengthen_prompt(self, tokens: int) -> None:
        """Count more tokens as part of the prompt."""
        self.prompt_tokens += tokens
        if self.tracker is not None:
            self.tracker.lengthen_prompt(tokens)

    def drop(self, evicted: int, *, seen: int) -> None:
        """Count entries that an event dropped, summed over layers and KV heads."""
        self.evicted += evicted
        self.evicted_at += evicted * max(seen, self.prompt_tokens)

    def mean_entries(self, new_tokens: int, heads: int) -> float:
        """Entries per KV head that a decode step attended to, averaged over heads and steps.

        A step that brings the sequence to t tokens attends to t entries less those dropped before.
        An entry dropped at t is missing from all steps after it.

        Args:
            new_tokens: tokens decoded so far, of which the last is never fed.
            heads: KV heads of all layers together.
        """
        prompt = self.prompt_tokens
        steps = new_tokens - 1
        if steps < 1:
            return prompt - self.evicted / heads
        missing = self.evicted * (prompt + steps) - self.evicted_at
        return prompt + (steps + 1) / 2 - missing / heads / steps
