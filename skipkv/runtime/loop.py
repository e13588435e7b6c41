"""The decode loop: admit, feed prompts, step, read back, compress; over and over."""

from collections import abc
from collections.abc import Callable, Iterable, Iterator
from itertools import chain
from typing import Literal

import attrs
import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformers import LogitsProcessorList

from skipkv._calls import without_frames
from skipkv.errors import PartError, SkipKVError
from skipkv.runtime.graph import Record, RecordedSteps, recorder
from skipkv.runtime.parts import checked
from skipkv.runtime.requests.prefill import LONGEST_PASS, PREFILL_CHUNK, Reading, columns
from skipkv.runtime.requests.sampling import NO_TOKEN, Sampling, choose, uniforms
from skipkv.runtime.requests.sequence import Order, Sequence
from skipkv.runtime.results.completion import StopReason
from skipkv.runtime.results.observers import ObservedPass, ObservedToken
from skipkv.runtime.seam.lending import borrowed, evaluating, no_gradient
from skipkv.runtime.session import Session
from skipkv.runtime.store.slots import on_device
from skipkv.runtime.support.continuing import warn_of_single_tokens
from skipkv.runtime.text.stopping import StopFinder
from skipkv.runtime.text.token_text import TokenText

# Decode steps after which the host looks at all sequences, if nothing else makes it look.
_BURST = 16


@attrs.define(kw_only=True)
class _Alike:
    """Rows whose tokens are chosen in one way."""

    sampling: Sampling
    processors: LogitsProcessorList
    rows: list[int] = attrs.field(factory=list)


def _choose(
    logits: Float[Tensor, "n V"],
    alike: abc.Sequence[_Alike],
    drawn: Float[Tensor, "n"] | None,
    *,
    looks: bool = False,
) -> Int[Tensor, "n"]:
    """The next token of each row, chosen as its request says; `looks` is as for `choose`."""
    if len(alike) == 1:
        return choose(logits, alike[0].processors, drawn, looks=looks)
    chosen = torch.empty(len(logits), dtype=torch.long, device=logits.device)
    for some in alike:
        own = None if some.sampling.greedy or drawn is None else drawn[some.rows]
        chosen[some.rows] = choose(logits[some.rows], some.processors, own, looks=looks)
    return chosen


class DecodeLoop:
    """Decodes requests with a session, in as many sequences side by side as it has room for.

    `add` and `cancel` requests at any time, and call `advance` as long as the loop is `busy`.

    A newcomer's prompt is fed in chunks, with a decode step of the others between any two of them.
    The newcomer decodes with the others from the step after its last chunk on. Every newcomer is
    fed its own next chunk in the same pass, so a short prompt does not wait for a long one.
    A lane that becomes free meanwhile is filled at once. Samples of one prompt that start together
    are fed it once: the others get a copy of what the first one has then.

    After an error of `advance` make a new loop, with a new session.

    Args:
        session: what decodes.
        eos: tokens that end a sequence.
        text: the text of tokens.
        prefill_chunk: tokens of a newcomer's prompt fed between two steps of the others.
        graphs: record steps where that is possible. A function records them on any device.
        read_every: decode steps between two readings of the tokens. A reading makes an accelerator
            wait; what a finished sequence decodes until then is thrown away. None: 1 on a CPU, 16
            elsewhere.
        streaming: sequences come out whenever they have grown, too.
    """

    def __init__(
        self,
        session: Session,
        *,
        eos: frozenset[int],
        text: TokenText,
        prefill_chunk: int = PREFILL_CHUNK,
        graphs: bool | Record = True,
        read_every: int | None = None,
        streaming: bool = False,
    ) -> None:
        self.waiting: list[Order] = []
        """Requests that have not started, in the order they came."""
        self._session = session
        self._streaming = streaming
        self._observers = session.observers
        self._model = session.model
        self._scheduler = session.policy.scheduler
        self._lanes = session.store.sequences
        self._device = session.store.device
        self._eos = eos
        self._ends = eos | {NO_TOKEN}  # tokens at which a sequence ends
        self._text = text
        self._chunk = prefill_chunk
        record = recorder(self._device) if graphs is True else graphs or None
        self._record = None if session.room is None else record
        # Recorded steps choose all tokens in one way: that of the first of them.
        self._recorded: RecordedSteps | None = None
        self._recorded_way: tuple[float | int, ...] = ()
        on_host = self._device.type == "cpu"
        self._read_every = read_every or (1 if on_host else _BURST)
        self._asks = self._read_every == 1  # then the host knows every token
        # Further samples of a newcomer's prompt; each has a lane for itself from the beginning.
        self._samples: dict[Sequence, list[Sequence]] = {}
        # Sequences with a lane that wait until another one has read their prefix.
        self._held: list[Sequence] = []
        self._news: list[Sequence] = []  # done or grown

    @property
    def running(self) -> list[Sequence]:
        """The sequences that have started and are not done."""
        samples = chain.from_iterable(self._samples.values())
        return [*self._session.sequences, *samples, *self._held]

    @property
    def busy(self) -> bool:
        """Whether something waits, runs, or is yet to come out."""
        return bool(self.waiting or self._session.sequences or self._held or self._news)

    @property
    def room(self) -> int:
        """Lanes that neither a running sequence has nor a waiting request can take."""
        return max(self._lanes - len(self.running) - len(self.waiting), 0)

    def add(self, requests: Iterable[Order]) -> None:
        """Let requests wait for a free lane."""
        self.waiting += requests

    def cancel(self, requests: abc.Collection[Order]) -> None:
        """End requests before the next pass. They come out with the reason "cancelled"."""
        for request in [request for request in self.waiting if request in requests]:
            self.waiting.remove(request)
            self._refuse(request, "cancelled")
        for first, samples in [*self._samples.items()]:
            self._end([sample for sample in samples if sample.request in requests], samples)
            if first.request in requests and samples:  # the next sample goes on with its prompt
                heir = samples.pop(0)
                self._samples[heir] = self._samples.pop(first)
                if first in self._held:
                    self._held[self._held.index(first)] = heir
                else:
                    self._session.replace(first, heir)
                first.reason = "cancelled"
                self._news.append(first)
        self._end([held for held in self._held if held.request in requests], self._held)
        for sequence in self._session.sequences:
            if sequence.request in requests and sequence.reason is None:
                sequence.reason = "cancelled"

    def _end(self, cancelled: abc.Sequence[Sequence], among: list[Sequence]) -> None:
        """End sequences without a place in the cache, and take them out of a list."""
        for sequence in cancelled:
            among.remove(sequence)
            sequence.reason = "cancelled"
            self._news.append(sequence)

    def advance(self, stop: Callable[[], bool] = lambda: False) -> list[Sequence]:
        """Decode until a sequence is done; if streaming, until one has grown.

        The model is borrowed during the call, and the caller's afterwards.

        Args:
            stop: asked between passes; where it says yes, the call ends early.

        Returns:
            The sequences that are done, each with a `reason`; if streaming, those that have grown
            too, which `fresh` tells.
        """
        with (
            borrowed(self._model, by="Engine"),
            evaluating(self._model),
            self._session.hooked(),
            no_gradient(self._model),
        ):
            if self._observers is not None:
                self._observers.tell("on_resume")
            self._release()  # those cancelled since
            while not self._news and self.busy:
                self._turn()
                if stop():
                    break
        return self.take()

    def take(self) -> list[Sequence]:
        """The sequences that `advance` has not returned because of an error."""
        news, self._news = self._news, []
        return list(dict.fromkeys(news))  # one that grew twice comes once

    def run(self, requests: Iterable[Order]) -> Iterator[Sequence]:
        """Decode requests to their end; all wait from the beginning."""
        self.add(requests)
        while self.busy:
            yield from self.advance()

    def _turn(self) -> None:
        """One round: the newcomers' next chunk, steps of those who decode, the events due then."""
        if self.waiting and len(self.running) < self._lanes:
            self._admit()
        if self._held:
            self._held = [sequence for sequence in self._held if not self._start(sequence)]
        if self._session.newcomers:
            self._feed_prompts()
            self._release()
        if self._session.decoders:
            self._steps()
            self._compress(self._session.due())
            self._release()

    def _admit(self) -> None:
        """Start the requests that the scheduler chooses.

        Once a scheduler breaks, it is unknown which request should start next. So all that wait end
        with its error, and those that have started go on.
        """
        waiting, running = self.waiting, len(self.running)
        try:
            chosen = checked.admitted(
                self._scheduler, waiting, free=self._lanes - running, running=running
            )
        except PartError as error:
            fault = without_frames(error)
            for request in waiting:
                self._refuse(request, "error", fault)
            waiting.clear()
            return
        newcomers = [self._sequence(waiting[i]) for i in chosen]
        for index in sorted(chosen, reverse=True):
            del waiting[index]
        longest = max((sequence.prompt_tokens for sequence in newcomers), default=0)
        firsts: dict[int, Sequence] = {}
        # Shortest first: who joins first lies in front, and need not change places to join.
        for sequence in sorted(newcomers, key=lambda s: s.prompt_tokens):
            sequence.padding = longest - sequence.prompt_tokens
            first = firsts.setdefault(sequence.request.index, sequence)
            if first is not sequence:
                self._samples.setdefault(first, []).append(sequence)
                first.shared = first.shared or []
            elif not self._start(sequence):
                self._held.append(sequence)

    def _start(self, sequence: Sequence) -> bool:
        """Start a sequence, unless another one is reading its prefix; whether it has started."""
        prefix, session = sequence.request.prefix, self._session
        if prefix is None:
            session.start(sequence)
        elif prefix.state is not None and prefix.state.serves(self._observers):
            session.start_after(prefix.state, sequence)
        elif any(s.request.prefix is prefix and s.reason is None for s in session.newcomers):
            return False
        else:
            session.start(sequence)
            sequence.shared = []
        return True

    def _refuse(self, request: Order, reason: StopReason, error: SkipKVError | None = None) -> None:
        """End a request that has not started."""
        sequence = self._sequence(request)
        sequence.reason, sequence.error = reason, error
        self._news.append(sequence)

    def _sequence(self, request: Order) -> Sequence:
        """The record of a request that starts now."""
        drawn = None
        if not request.sampling.greedy:
            drawn = uniforms(request.seed, request.sample, request.max_new_tokens)
            drawn = drawn.to(self._device)
        prefix = 0 if request.prefix is None else len(request.prefix.ids)
        return Sequence(
            request=request,
            prompt_tokens=request.prompt_tokens,
            most_tokens=request.prompt_tokens + request.max_new_tokens,
            uniforms=drawn,
            finder=StopFinder(self._text.tokenizer, request.stop) if request.stop else None,
            reading=Reading(ends=self._session.ends(request.prompt_tokens, prefix=prefix)),
        )

    def _feed_prompts(self) -> None:
        """Feed every newcomer its next chunk; those whose prompts are in decode their first token.

        All chunks end in the last column, so that it has the logits of every prompt that is in.
        """
        lane, newcomers = self._session.decoding, self._session.newcomers
        if not self._session.continues:  # each then feeds all that it can feed at once, alone
            newcomers = newcomers[:1]
            [reading] = (n.reading for n in newcomers)
            limit = 1 if reading.fed else reading.left
            if reading.left > limit:
                warn_of_single_tokens(self._session.model)
        else:
            limit = columns(
                [n.reading for n in newcomers],
                self._chunk,
                decoding=lane > 0,
                most=LONGEST_PASS if self._session.room is None else None,
            )
            if not self._session.pads:  # all then feed equally many
                limit = min(limit, *(n.reading.left for n in newcomers))
        chunks = [n.reading.take(limit) for n in newcomers]
        width = max(map(len, chunks))
        ids = torch.tensor(
            [
                [0] * (width - len(chunk)) + list(n.request.prompt[chunk.start : chunk.stop])
                for n, chunk in zip(newcomers, chunks, strict=True)
            ],
            device=self._device,
        )
        counts = [len(chunk) for chunk in chunks]
        logits = self._session.logits(self._session.prompts(lane, counts, ids))
        # A prefix within its budget has no event, so that its prompt is as one without a prefix.
        inside = [n for n in newcomers if n.at_prefix]
        within = {*inside}.difference(self._session.over_budget(inside))
        self._compress([n for n in newcomers if n.reading.at_end and n not in within])
        for reader in inside:
            if reader.reason is None:
                assert reader.request.prefix is not None
                reader.request.prefix.state = self._session.prefix_state(reader)
        joining, rows = [], []
        for row, first in enumerate(newcomers):
            if not first.reading.done and first.reason is None:
                continue
            samples = self._samples.pop(first, [])
            for sequence in samples:
                self._session.start_copy(first, sequence)
                sequence.shared = None
            first.shared = None
            if first.reason is None:
                joining += [first, *samples]
                rows += [row] * (1 + len(samples))
        if rows:
            self._join(joining, logits[rows])
        self._tell_pass("prompt", newcomers, counts)

    def _join(self, joining: abc.Sequence[Sequence], logits: Float[Tensor, "n V"]) -> None:
        """Let newcomers decode with the others; these are their logits."""
        for sequence in joining:
            self._session.join(sequence)
        drawn = self._drawn(joining, steps=1)
        chosen = _choose(logits, _alike(joining), None if drawn is None else drawn[:, 0])
        self._read(chosen[:, None], joining)

    def _steps(self) -> None:
        """Decode until the host must look: a finished sequence, an event, or the burst's end."""
        decoding = self._session.decoders
        left = min(d.request.max_new_tokens - len(d.tokens) for d in decoding)
        steps = min(self._burst(), left, self._session.steps_to_event() or left)
        drawn = self._drawn(decoding, steps)
        alike = _alike(decoding)
        fed = [d.tokens[-1] for d in decoding]
        last = on_device(fed, self._device)
        known = fed if self._asks else None
        chosen = []
        for step in range(steps):
            last = self._step(last, None if drawn is None else drawn[:, step], alike, known)
            chosen.append(last)
            if self._asks:
                known = last.tolist()
                if not self._ends.isdisjoint(known):
                    break
        read = self._read(torch.stack(chosen, dim=1), decoding)
        for sequence, first, new in zip(decoding, fed, read, strict=True):
            sequence.fed([first, *new[:-1]])
        self._tell_pass("step", decoding, [1] * len(decoding), steps=len(chosen))

    def _tell_pass(
        self,
        kind: Literal["prompt", "step"],
        sequences: abc.Sequence[Sequence],
        fed: abc.Sequence[int],
        *,
        steps: int = 0,
    ) -> None:
        """Tell observers of the passes just done."""
        if self._observers is None or not self._observers.passes:
            return
        passed = ObservedPass(
            kind=kind,
            steps=steps,
            rows=tuple((sequence.index, sequence.sample) for sequence in sequences),
            fed=tuple(fed),
            steered=self._session.take_steered(),
        )
        self._observers.tell("on_pass", passed)

    def _burst(self) -> int:
        """Steps to the next look at the tokens, at most."""
        if self._session.newcomers:
            return 1  # they need not wait long
        if not self._asks:
            return self._read_every
        looks = self._streaming or any(d.finder is not None for d in self._session.decoders)
        return 1 if looks else _BURST

    def _step(
        self,
        last: Int[Tensor, "n"],
        drawn: Float[Tensor, "n"] | None,
        alike: abc.Sequence[_Alike],
        known: list[int] | None,
    ) -> Int[Tensor, "n"]:
        """Feed every decoding sequence its newest token; returns the tokens that follow.

        Args:
            last: the newest tokens.
            drawn: random numbers, where tokens are sampled.
            alike: how the tokens are chosen.
            known: the newest tokens again, where the host has them.
        """
        recorded = self._recorded_steps(alike)
        if recorded is not None and not recorded.failed:
            return recorded.step(last, drawn)
        if known is None:  # there may be rows without a token
            last = last.clamp_min(0)
        logits = self._session.logits(self._session.step(last[:, None], known=known))
        return _choose(logits, alike, drawn, looks=known is not None)

    def _recorded_steps(self, alike: abc.Sequence[_Alike]) -> RecordedSteps | None:
        """Steps recorded as a graph, where there are any for all sequences that decode now."""
        if self._record is None or len(alike) > 1:
            return None
        [only] = alike
        if self._recorded is None:
            self._recorded_way = only.sampling.way
            self._recorded = RecordedSteps(
                self._session,
                only.processors,
                sampled=not only.sampling.greedy,
                record=self._record,
            )
        return self._recorded if self._recorded_way == only.sampling.way else None

    def _drawn(self, sequences: abc.Sequence[Sequence], steps: int) -> Float[Tensor, "n K"] | None:
        """The random numbers of these sequences' next steps; zeros for one decoded greedily."""
        if all(s.uniforms is None for s in sequences):
            return None
        unused = torch.zeros(steps, dtype=torch.float64, device=self._device)
        return torch.stack(
            [
                unused if s.uniforms is None else s.uniforms[len(s.tokens) : len(s.tokens) + steps]
                for s in sequences
            ]
        )

    def _read(
        self, tokens: Int[Tensor, "n K"], sequences: abc.Sequence[Sequence]
    ) -> list[list[int]]:
        """Bring new tokens to the host and see which sequences are done; returns the tokens."""
        read: list[list[int]] = tokens.tolist()
        for sequence, new in zip(sequences, read, strict=True):
            for token in new:
                if sequence.reason is None and token == NO_TOKEN:
                    sequence.reason = "error"
                    sequence.error = self._session.why_no_token(sequence)
                if sequence.reason is None:
                    self._take(sequence, token)
        return read

    def _take(self, sequence: Sequence, token: int) -> None:
        sequence.tokens.append(token)
        if self._observers is not None and self._observers.tokens:
            seen = ObservedToken(
                index=sequence.index,
                sample=sequence.sample,
                token=token,
                position=sequence.prompt_tokens + len(sequence.tokens) - 1,
            )
            self._observers.tell("on_token", seen)
        if token in self._eos:
            sequence.reason = "eos"
            return
        if sequence.finder is not None:
            sequence.stop_string = sequence.finder.feed(token)
        if sequence.stop_string is not None:
            sequence.reason = "stop_string"
        elif len(sequence.tokens) == sequence.request.max_new_tokens:
            sequence.reason = "length"

    def _compress(self, sequences: abc.Sequence[Sequence]) -> None:
        going = [sequence for sequence in sequences if sequence.reason is None]
        if not going:
            return
        self._session.events(going)
        for sequence in going:
            if sequence.error is not None:
                sequence.reason = "error"

    def _release(self) -> None:
        """Free the lanes of the sequences that are done; they, or if streaming all that grew, are
        news.
        """
        running = self._session.sequences
        done = [s for s in running if s.reason is not None]
        if self._streaming:
            self._news += [s for s in running if s.grown and s.reason is None]
        self._news += done
        for sequence in reversed(done):  # so that fewer of them move
            sequence.stats = self._session.stats(
                sequence,
                new_tokens=len(sequence.tokens),
                seconds=sequence.age,
                steps_ago=self._past_end(sequence),
            )
            self._session.stop(sequence)

    def _past_end(self, sequence: Sequence) -> int:
        """Steps that fed a sequence after its end, until the host looked at the tokens."""
        # The last token is never fed, but where none could be chosen after it.
        fed = sequence.prompt_tokens + len(sequence.tokens) - (sequence.reason != "error")
        return max(self._session.store.tokens_seen[sequence.lane] - fed, 0)


def _alike(sequences: abc.Sequence[Sequence]) -> list[_Alike]:
    """The rows of these sequences, those together whose tokens are chosen in one way."""
    found: dict[tuple[float | int, ...], _Alike] = {}
    for row, sequence in enumerate(sequences):
        sampling = sequence.request.sampling
        if sampling.way not in found:
            found[sampling.way] = _Alike(sampling=sampling, processors=sampling.processors())
        found[sampling.way].rows.append(row)
    return list(found.values())
