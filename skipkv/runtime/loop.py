"""The decode loop: admit, feed prompts, step, read back, compress; until every request is done."""

import time
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice

import attrs
import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformers import LogitsProcessorList

from skipkv._calls import without_frames
from skipkv._types import Request
from skipkv.errors import PartError, SkipKVError
from skipkv.runtime import checked
from skipkv.runtime.completion import Stats, StopReason, stats_of
from skipkv.runtime.forward import Forward
from skipkv.runtime.graph import RecordedSteps, recorder
from skipkv.runtime.prefill import LONGEST_PASS, PREFILL_CHUNK, Reading, columns
from skipkv.runtime.sampling import NO_TOKEN, Sampling, choose, uniforms
from skipkv.runtime.seam import borrowed, evaluating
from skipkv.runtime.session import EventRecord, Running, Session
from skipkv.runtime.stopping import StopFinder
from skipkv.runtime.text import TokenText
from skipkv.runtime.timing import Timings

# Decode steps between two readings of the tokens. A reading makes an accelerator wait; what a
# finished sequence decodes until then is thrown away.
_STEPS_UNREAD = 16


def _can_ask(device: torch.device) -> bool:
    """Whether a look at the newest tokens costs no wait."""
    return device.type == "cpu"


@attrs.frozen(kw_only=True)
class Order(Request):
    """A request with what the loop alone reads.

    Args:
        prompt_index: which of the prompts given it decodes, from 0.
        sampling: how its tokens are chosen.
        stop: strings at which it ends.
    """

    prompt_index: int = 0
    sampling: Sampling = attrs.field(factory=Sampling)
    stop: tuple[str, ...] = ()


@attrs.define(kw_only=True)
class Finished:
    """A request that is done, as the loop knows it."""

    request: Order
    tokens: list[int]
    reason: StopReason
    stop_string: str | None
    error: SkipKVError | None
    stats: Stats
    trace: list[EventRecord] | None


@attrs.frozen(kw_only=True)
class Fresh:
    """Tokens of a request that were read since it last came out, as the loop knows them."""

    request: Order
    tokens: list[int]


@attrs.define(kw_only=True)
class _Decoding:
    """A sequence of the session; its place in the loop's lists is its number there."""

    request: Order
    running: Running
    reading: Reading
    started: float
    padding: int  # to the longest prompt admitted with it; never stored
    uniforms: Tensor | None
    finder: StopFinder | None
    tokens: list[int] = attrs.field(factory=list)
    told: int = 0  # how many of them came out as `Fresh`
    reason: StopReason | None = None
    error: SkipKVError | None = None
    stop_string: str | None = None


@attrs.define(kw_only=True)
class _Alike:
    """Rows whose tokens are chosen in one way."""

    sampling: Sampling
    processors: LogitsProcessorList
    rows: list[int] = attrs.field(factory=list)


def _choose(
    logits: Float[Tensor, "n V"], alike: Sequence[_Alike], drawn: Float[Tensor, "n"] | None
) -> Int[Tensor, "n"]:
    """The next token of each row, chosen as its request says."""
    if len(alike) == 1:
        return choose(logits, alike[0].processors, drawn)
    chosen = torch.empty(len(logits), dtype=torch.long, device=logits.device)
    for some in alike:
        own = None if some.sampling.greedy or drawn is None else drawn[some.rows]
        chosen[some.rows] = choose(logits[some.rows], some.processors, own)
    return chosen


class DecodeLoop:
    """Decodes requests with a session, in as many sequences side by side as it has room for.

    A newcomer's prompt is fed in chunks, a decode step of the others between any two of them, and
    decodes with the others from the step after its last chunk on. Each newcomer is fed its own next
    chunk, whoever was admitted with it: a short prompt does not wait for a long one, and a slot
    that becomes free meanwhile is filled at once too.

    Call `run` once.
    """

    def __init__(
        self,
        session: Session,
        *,
        eos: frozenset[int],
        text: TokenText,
        prefill_chunk: int = PREFILL_CHUNK,
        graphs: bool = True,
        streaming: bool = False,
    ) -> None:
        self._session = session
        self._streaming = streaming
        self._model = session.model
        self._scheduler = session.policy.scheduler
        self._slots = session.store.sequences
        self._device = session.store.keys.device
        self._eos = eos
        self._ends = eos | {NO_TOKEN}  # tokens at which a sequence ends
        self._text = text
        self._chunk = prefill_chunk
        self._record = recorder(self._device) if graphs and session.room is not None else None
        # Recorded steps choose all tokens in one way: that of the first of them.
        self._recorded: RecordedSteps | None = None
        self._recorded_way: tuple[float | int, ...] = ()
        self._alike: list[_Alike] = []  # all that decode
        self._decoding: list[_Decoding] = []
        self._newcomers: list[_Decoding] = []  # their numbers follow those of the decoding ones
        self._last: Int[Tensor, "n"] = torch.empty(0, dtype=torch.long, device=self._device)
        self._asks = _can_ask(self._device)
        self._known: list[int] | None = None  # the newest tokens, where they were asked for

    def run(
        self, requests: Iterable[Order], timings: Timings | None = None
    ) -> Iterator[Finished | Fresh]:
        """Decode all requests; each comes out as it finishes, and if streaming as it grows.

        Args:
            requests: what to decode. All of a list wait from the beginning; of another iterable
                one is taken for each slot that is free.
            timings: gets what it took.
        """
        coming = iter(requests)
        waiting = list(coming) if isinstance(requests, Sequence) else []
        done: list[Finished | Fresh] = []
        while True:
            # The caller's own code, so it runs while the model is not hooked.
            waiting += islice(coming, max(self._slots - self._running - len(waiting), 0))
            if not (waiting or self._running):
                return
            # Between results the model is the caller's: it is borrowed only here.
            with (
                borrowed(self._model, by="Engine"),
                evaluating(self._model),
                self._session.hooked(),
                torch.inference_mode(),
            ):
                if timings is not None:
                    timings.resume()
                while not done and (waiting or self._running):
                    if waiting and self._running < self._slots:
                        done += self._admit(waiting)
                    if self._newcomers:
                        self._feed_prompts()
                        done += self._release()
                        if timings is not None:
                            timings.lap("prefill")
                    if self._decoding:
                        steps = self._steps()
                        if timings is not None:
                            timings.lap("step", steps=steps)
                        if due := self._session.due():
                            self._compress(due)
                            if timings is not None:
                                timings.lap("event")
                        done += self._release()
            yield from done
            done = []

    @property
    def _running(self) -> int:
        """Slots taken."""
        return len(self._decoding) + len(self._newcomers)

    def _admit(self, waiting: list[Order]) -> list[Finished]:
        """Let requests in that the scheduler chooses; returns those that are done all the same.

        Who should start next is unknown once a scheduler breaks. So all that wait end with its
        error, and those that have started go on.
        """
        running = self._running
        try:
            chosen = checked.admitted(
                self._scheduler, waiting, free=self._slots - running, running=running
            )
        except PartError as error:
            failure = without_frames(error)
            unstarted = [self._unstarted(request, failure) for request in waiting]
            waiting.clear()
            return unstarted
        newcomers = [waiting[i] for i in chosen]
        for index in sorted(chosen, reverse=True):
            del waiting[index]
        started = time.perf_counter()
        longest = max((request.prompt_tokens for request in newcomers), default=0)
        # Shortest first: who joins first lies in front, and need not change places to join.
        for request in sorted(newcomers, key=lambda r: r.prompt_tokens):
            number = self._session.start(request.prompt_tokens, new_tokens=request.max_new_tokens)
            passes = self._session.passes([request.prompt_tokens])
            drawn = None
            if not request.sampling.greedy:
                drawn = uniforms(request.seed, request.sample, request.max_new_tokens)
                drawn = drawn.to(self._device)
            self._newcomers.append(
                _Decoding(
                    request=request,
                    running=self._session.running[number],
                    reading=Reading(ends=[own.stop for (own,) in passes]),
                    started=started,
                    padding=longest - request.prompt_tokens,
                    uniforms=drawn,
                    finder=StopFinder(self._text.tokenizer, request.stop) if request.stop else None,
                )
            )
        return []

    def _feed_prompts(self) -> None:
        """Feed every newcomer its next chunk; those whose prompts are in decode their first token.

        All chunks end in the last column, so that it has the logits of every prompt that is in.
        """
        first, newcomers = len(self._decoding), list(self._newcomers)
        limit = columns(
            [n.reading for n in newcomers],
            self._chunk,
            decoding=first > 0,
            most=LONGEST_PASS if self._session.room is None else None,
        )
        chunks = [n.reading.take(limit) for n in newcomers]
        width = max(map(len, chunks))
        ids = torch.tensor(
            [
                [0] * (width - len(chunk)) + list(n.request.prompt[chunk.start : chunk.stop])
                for n, chunk in zip(newcomers, chunks, strict=True)
            ],
            device=self._device,
        )
        forward = self._session.begin_prompt(first, [len(chunk) for chunk in chunks], ids)
        logits = self._forward(forward, ids)
        self._compress([first + i for i, n in enumerate(newcomers) if n.reading.at_end])
        joining = [i for i, n in enumerate(newcomers) if n.reading.done and n.reason is None]
        if joining:
            self._join(joining, logits[joining])

    def _join(self, joining: Sequence[int], logits: Float[Tensor, "n V"]) -> None:
        """Let newcomers, given by their places, decode with the others; these are their logits."""
        first = len(self._decoding)
        for place in joining:  # in this order none of them is moved by another one
            self._session.join(first + place)
        self._follow()
        numbers = range(first, len(self._decoding))
        drawn = self._drawn(numbers, steps=1)
        chosen = _choose(logits, self._of_one_way(numbers), None if drawn is None else drawn[:, 0])
        self._last = torch.cat([self._last, chosen])
        self._read(chosen[:, None], numbers)

    def _follow(self) -> None:
        """Sequences have changed numbers: list them as the session does."""
        known = {d.running: d for d in (*self._decoding, *self._newcomers)}
        ordered = [known[running] for running in self._session.running]
        self._decoding = ordered[: self._session.decoding]
        self._newcomers = ordered[self._session.decoding :]
        self._alike = self._of_one_way(range(len(self._decoding)))

    def _steps(self) -> int:
        """Decode until somebody must look: a finished sequence, an event, or the burst's end.

        Returns how many steps that took.
        """
        numbers = range(len(self._decoding))
        left = min(d.request.max_new_tokens - len(d.tokens) for d in self._decoding)
        steps = min(self._burst(), left, self._session.steps_to_event() or left)
        drawn = self._drawn(numbers, steps)
        chosen = []
        if self._asks:
            self._known = self._last.tolist()
        for step in range(steps):
            self._last = self._step(None if drawn is None else drawn[:, step])
            chosen.append(self._last)
            if self._asks:
                self._known = self._last.tolist()
                if not self._ends.isdisjoint(self._known):
                    break
        fed = [d.tokens[-1] for d in self._decoding]
        tokens = torch.stack(chosen, dim=1)  # [n steps]
        read = self._read(tokens, numbers)
        for number in numbers:
            self._session.decoded(number, [fed[number], *read[number][:-1]])
        return len(chosen)

    def _burst(self) -> int:
        """Steps to the next look at the tokens, at most."""
        if self._newcomers:
            return 1  # they need not wait long
        looks = self._streaming or any(d.finder is not None for d in self._decoding)
        return 1 if self._asks and looks else _STEPS_UNREAD

    def _step(self, drawn: Float[Tensor, "n"] | None) -> Int[Tensor, "n"]:
        """Feed every sequence its newest token; the tokens that follow."""
        recorded = self._recorded_steps()
        if recorded is not None and not recorded.failed:
            return recorded.step(self._last, drawn)
        ids = self._last.clamp_min(0)[:, None]  # there may be rows without a token
        forward = self._session.begin_step(0, len(self._decoding), ids, known=self._known)
        return _choose(self._forward(forward, ids), self._alike, drawn)

    def _recorded_steps(self) -> RecordedSteps | None:
        """Steps recorded as a graph, where there are any for all sequences that decode now."""
        if self._record is None or len(self._alike) > 1:
            return None
        [alike] = self._alike
        if self._recorded is None:
            self._recorded_way = alike.sampling.way
            self._recorded = RecordedSteps(
                self._session,
                alike.processors,
                sampled=not alike.sampling.greedy,
                record=self._record,
            )
        return self._recorded if self._recorded_way == alike.sampling.way else None

    def _of_one_way(self, numbers: Sequence[int]) -> "list[_Alike]":
        """These sequences, those together whose tokens are chosen in one way."""
        found: dict[tuple[float | int, ...], _Alike] = {}
        for row, number in enumerate(numbers):
            sampling = self._decoding[number].request.sampling
            if sampling.way not in found:
                found[sampling.way] = _Alike(sampling=sampling, processors=sampling.processors())
            found[sampling.way].rows.append(row)
        return list(found.values())

    def _forward(self, forward: Forward, ids: Int[Tensor, "B T"]) -> Float[Tensor, "B V"]:
        """Logits of the last column."""
        output = self._model(input_ids=ids, logits_to_keep=1, **self._session.arguments(forward))
        self._session.end(forward, ids)
        return output.logits[:, -1]  # type: ignore[no-any-return]

    def _drawn(self, numbers: Sequence[int], steps: int) -> Float[Tensor, "n K"] | None:
        """The random numbers of these sequences' next steps; zeros for one decoded greedily."""
        decoding = [self._decoding[number] for number in numbers]
        if all(d.uniforms is None for d in decoding):
            return None
        unused = torch.zeros(steps, dtype=torch.float64, device=self._device)
        return torch.stack(
            [
                unused if d.uniforms is None else d.uniforms[len(d.tokens) : len(d.tokens) + steps]
                for d in decoding
            ]
        )

    def _read(self, tokens: Int[Tensor, "n K"], numbers: Sequence[int]) -> list[list[int]]:
        """Bring new tokens to the host and see who is done; returns them."""
        read: list[list[int]] = tokens.tolist()
        for number, new in zip(numbers, read, strict=True):
            decoding = self._decoding[number]
            for token in new:
                if decoding.reason is None and token == NO_TOKEN:
                    decoding.reason = "error"
                    decoding.error = self._session.why_no_token(number)
                if decoding.reason is None:
                    self._take(decoding, token)
        return read

    def _take(self, decoding: _Decoding, token: int) -> None:
        decoding.tokens.append(token)
        if token in self._eos:
            decoding.reason = "eos"
            return
        if decoding.finder is not None:
            decoding.stop_string = decoding.finder.feed(token)
        if decoding.stop_string is not None:
            decoding.reason = "stop_string"
        elif len(decoding.tokens) == decoding.request.max_new_tokens:
            decoding.reason = "length"

    def _compress(self, numbers: Sequence[int]) -> None:
        sequences = [*self._decoding, *self._newcomers]
        going = [n for n in numbers if sequences[n].reason is None]
        for number, error in self._session.events(going).items():
            sequences[number].reason, sequences[number].error = "error", error

    def _release(self) -> list[Finished | Fresh]:
        """Hand out what is new and what is done; others take the place of those that are done."""
        fresh = list(self._fresh()) if self._streaming else []
        sequences = [*self._decoding, *self._newcomers]
        done = [n for n, sequence in enumerate(sequences) if sequence.reason is not None]
        if not done:
            return [*fresh]
        finished = [self._finished(n) for n in done]
        for number in reversed(done):  # what moves comes from behind
            self._session.stop(number)
        self._follow()
        newest = [decoding.tokens[-1] for decoding in self._decoding]
        self._last = torch.tensor(newest, dtype=torch.long, device=self._device)
        return [*fresh, *finished]

    def _fresh(self) -> Iterator[Fresh]:
        for decoding in self._decoding:
            if len(decoding.tokens) > decoding.told and decoding.stop_string is None:
                yield Fresh(request=decoding.request, tokens=decoding.tokens[decoding.told :])
                decoding.told = len(decoding.tokens)

    def _unstarted(self, request: Order, error: SkipKVError) -> Finished:
        """A request that never got a slot."""
        return Finished(
            request=request,
            tokens=[],
            reason="error",
            stop_string=None,
            error=error,
            stats=Stats.nothing(),
            trace=[] if self._session.traces else None,
        )

    def _finished(self, number: int) -> Finished:
        decoding = [*self._decoding, *self._newcomers][number]
        assert decoding.reason is not None
        self._session.peak_entries(number)  # noted in the record
        return Finished(
            request=decoding.request,
            tokens=decoding.tokens,
            reason=decoding.reason,
            stop_string=decoding.stop_string,
            error=decoding.error,
            stats=stats_of(
                self._session,
                decoding.running,
                new_tokens=len(decoding.tokens),
                seconds=time.perf_counter() - decoding.started,
                padding=decoding.padding,
            ),
            trace=decoding.running.trace,
        )
