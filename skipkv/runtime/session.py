"""A model, a policy and the sequences now being decoded: what `Engine` and `attach` both drive.

The session owns all that changes: the slot store, the sequences' tokens and sentences. It is told
before and after each forward pass, and runs compression events when asked.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, cast

import attrs
import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformers import PreTrainedModel

from skipkv._types import SentenceTable
from skipkv.errors import SkipKVError
from skipkv.policy import Policy
from skipkv.runtime import checked
from skipkv.runtime.decode import DecodeForward
from skipkv.runtime.event import Outcome, compress
from skipkv.runtime.forward import Forward, PromptForward
from skipkv.runtime.kernels import Kernel
from skipkv.runtime.last_hidden import LastHidden
from skipkv.runtime.prefill import plan
from skipkv.runtime.seam import SlotCache, cache_name, under_way
from skipkv.runtime.sentences import SentenceTracker, feed
from skipkv.runtime.slots import SlotStore, put
from skipkv.runtime.steering import Steering, check_steerer
from skipkv.runtime.support import cache_shape, full_attention_layers
from skipkv.runtime.text import TokenText

# Entries there is room for at first, and steps between two looks at the sentences, where no budget
# in tokens says.
_ROOM = 512
_INTERVAL = 128


@attrs.frozen(kw_only=True)
class EventRecord:
    """One compression event of one sequence, for those who want to see what a policy does.

    Args:
        seen: tokens the sequence had seen.
        entries: most entries a head held before.
        evicted: entries dropped, summed over layers and KV heads.
        kept: positions kept per layer and KV head, -1 behind.
    """

    seen: int
    entries: int
    evicted: int
    kept: Int[Tensor, "layers H K"] = attrs.field(repr=False)


@attrs.define(kw_only=True, eq=False)
class Running:
    """What the host knows of one sequence in the cache."""

    prompt_tokens: int
    most_tokens: int | None = None  # that it can come to hold, where somebody says so
    tracker: SentenceTracker | None = None
    unread: list[int] = attrs.field(factory=list)  # ids the segmenter has not seen yet
    events: int = 0
    evicted: int = 0
    evicted_at: int = 0  # the sum of tokens seen when an entry was dropped, over those dropped
    peak_entries: int = 0
    trace: list[EventRecord] | None = None
    seen: int = 0  # tokens; only in a copy, see `Session.as_of`
    error: SkipKVError | None = None  # a part broke on it, or the model; it cannot go on

    def drop(self, evicted: int, *, seen: int) -> None:
        """Count entries that an event dropped, summed over layers and KV heads."""
        self.evicted += evicted
        self.evicted_at += evicted * max(seen, self.prompt_tokens)

    def mean_entries(self, new_tokens: int, heads: int) -> float:
        """Entries per KV head that a decode step attended to, averaged over heads and steps.

        A step that brings the sequence to t tokens attends to t entries less those dropped before;
        an entry dropped at t is missing from all steps after it.

        Args:
            new_tokens: decoded so far, of which the last is never fed.
            heads: KV heads of all layers together.
        """
        prompt = self.prompt_tokens
        steps = new_tokens - 1
        if steps < 1:
            return prompt - self.evicted / heads
        missing = self.evicted * (prompt + steps) - self.evicted_at
        return prompt + (steps + 1) / 2 - missing / heads / steps


class Session:
    """The state of decoding: one slot store and the sequences in it.

    Sequences are numbered `0 .. len(running)`, side by side in the store: the first `decoding` of
    them decode, those behind are still being fed their prompts. So a decode step and a pass over
    prompts both work on neighbours, whoever comes and goes.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        policy: Policy,
        *,
        sequences: int,
        text: TokenText | None,
        trace: bool = False,
        longest: int | None = None,
    ) -> None:
        """Allocate what these sequences need.

        Args:
            model: a causal language model of a supported family.
            policy: what to keep.
            sequences: decoded side by side, at most.
            text: of tokens, where the policy reads any.
            trace: whether events are recorded.
            longest: tokens that one of them can come to, prompt included; None where it is unknown.
        """
        config = model.config
        self.model = model
        self.policy = policy
        self._text = text
        self.traces = trace
        self._layers = full_attention_layers(config)
        fixed = None if policy.budget is None else policy.budget.capacity
        # A budget may be larger than all that a sequence can come to hold.
        if longest is None:
            longest = getattr(config, "max_position_embeddings", None)
        self._device = model.device
        shape = cache_shape(config)
        self.heads = shape.layers * shape.heads  # KV heads of all layers together
        self.store = SlotStore(
            shape,
            sequences=sequences,
            capacity=min(fixed or _ROOM, longest or fixed or _ROOM),
            needs=policy.needs,
            dtype=model.dtype,
            device=self._device,
        )
        self._fixed = fixed
        self.cache = SlotCache(config, self._layers, dtype=model.dtype)
        self._cache_name = cache_name(model)
        self.running: list[Running] = []
        self.decoding = 0
        self._steering = None
        if policy.steerer.layer is not None:
            check_steerer(policy.steerer, layers=config.num_hidden_layers, width=config.hidden_size)
            assert text is not None
            self._steering = Steering(
                policy.steerer,
                sequences=sequences,
                vocabulary=config.vocab_size,
                text=text,
                device=self._device,
            )
        # Read at events, so as many as there are steps between two of them are enough.
        self._interval = _INTERVAL if policy.budget is None else policy.budget.interval
        self._hidden = (
            LastHidden(
                sequences,
                kept=self._interval,
                hidden_size=config.hidden_size,
                device=self._device,
            )
            if policy.needs.sentences
            else None
        )
        self._last_hidden: Float[Tensor, "B T E"] | None = None
        self._decode: DecodeForward | None = None

    @contextmanager
    def hooked(self) -> Iterator[None]:
        """While it lasts, hidden states are seen and steered in this session's passes."""
        handles = []
        try:
            if self._hidden is not None:
                handles.append(self.model.base_model.register_forward_hook(self._see_hidden))
            if self._steering is not None:
                layers = cast(torch.nn.ModuleList, self.model.base_model.layers)
                layer = layers[cast(int, self.policy.steerer.layer)]
                handles.append(layer.register_forward_pre_hook(self._steer, with_kwargs=True))
            yield
        finally:
            self.cache.abandon()  # a pass that failed
            for handle in handles:
                handle.remove()

    def start(self, prompt_tokens: int, *, new_tokens: int | None = None) -> int:
        """Take in a new sequence, its prompt still to be fed; returns its number.

        Args:
            prompt_tokens: length of its prompt.
            new_tokens: how many it will decode at most, if that is known.
        """
        number = len(self.running)
        self.store.clear(number)
        tracker = None
        if self.policy.needs.sentences:
            tracker = SentenceTracker(
                self.policy.segmenter,
                self.model.config.hidden_size,
                self._device,
                prompt=prompt_tokens,
            )
        self.running.append(
            Running(
                prompt_tokens=prompt_tokens,
                most_tokens=None if new_tokens is None else prompt_tokens + new_tokens,
                tracker=tracker,
                trace=[] if self.traces else None,
            )
        )
        if self._steering is not None:
            self._steering.start(number)
        return number

    def lengthen_prompt(self, number: int, tokens: int) -> None:
        """More of a sequence's prompt follows than `start` was told of."""
        running = self.running[number]
        running.prompt_tokens += tokens
        if running.tracker is not None:
            running.tracker.lengthen_prompt(tokens)

    def as_of(self, number: int, *, steps_ago: int = 0) -> Running:
        """A copy of what a sequence had cost some decode steps ago, no event having come since."""
        running = self.running[number]
        return attrs.evolve(
            running,
            seen=self.store.tokens_seen[number] - steps_ago,
            peak_entries=max(running.peak_entries, self.store.widths[number] - steps_ago),
            trace=None if running.trace is None else [*running.trace],
            tracker=None,
        )

    def join(self, number: int) -> None:
        """A sequence's prompt is in: it decodes from now on, in the lane after those that do.

        It changes places with the sequence that lay there.
        """
        self._put({self.decoding: number, number: self.decoding})
        self.decoding += 1

    def stop(self, number: int) -> None:
        """Let a sequence go.

        Its lane goes to the last sequence of all. If it decoded, its lane goes to the last one that
        decodes, and the lane of that one to the last of all.
        """
        last = len(self.running) - 1
        if number < self.decoding:
            self.decoding -= 1
            self._put({number: self.decoding, self.decoding: last})
        else:
            self._put({number: last})
        self.running.pop()

    def _put(self, sources: Mapping[int, int]) -> None:
        """Put the sequence in lane `sources[lane]` into `lane`, for all of these at once."""
        moving = {lane: source for lane, source in sources.items() if lane != source}
        if not moving:
            return
        targets, origins = list(moving), list(moving.values())
        for holder in (self.store, self._steering, self._hidden):
            if holder is not None:
                holder.put(targets, origins)
        put(self.running, targets, origins)

    @property
    def room(self) -> int | None:
        """Entries a row may ever hold; None where the cache grows."""
        return self._fixed

    def _reserve(self, room: int) -> None:
        ends = [running.most_tokens for running in self.running]
        known = [end for end in ends if end is not None]
        self.store.reserve(room, limit=max(known) if len(known) == len(ends) else None)

    def passes(self, prompts: Sequence[int]) -> list[list[range]]:
        """The forward passes that bring in prompts of these lengths: see `prefill.plan`.

        Where the cache grows, under a ratio too, a prompt goes in whole.
        """
        return plan(prompts, self._fixed or max(prompts), self._interval)

    def begin_prompt(self, first: int, counts: Sequence[int], ids: Int[Tensor, "B T"]) -> Forward:
        """Prepare a forward pass that feeds prompts to the sequences from `first` on.

        Of row b the last `counts[b]` columns are tokens; those before are padding.
        """
        room = max(self.store.widths[first + i] + count for i, count in enumerate(counts))
        self._reserve(room)
        forward = PromptForward(
            self.store, self._layers, first=first, counts=counts, columns=ids.shape[1]
        )
        self.cache.begin(forward)
        if self._steering is not None:
            self._steering.begin_prompt(
                first,
                [ids[b, ids.shape[1] - n :].tolist() for b, n in enumerate(counts)],
                [
                    self.store.tokens_seen[n] >= self.running[n].prompt_tokens
                    for n in range(first, first + len(counts))
                ],
                forward.positions[:, -1],
            )
        return forward

    def begin_step(
        self,
        first: int,
        last: int,
        ids: Int[Tensor, "B 1"],
        *,
        known: Sequence[int] | None = None,
    ) -> Forward:
        """Prepare a decode step that feeds `ids` to the sequences `first .. last`.

        Args:
            first: the first sequence.
            last: behind the last one.
            ids: a token for each.
            known: the tokens again, where the host has them.
        """
        forward = self._decode
        if forward is None or (forward.first, forward.last) != (first, last) or not forward.current:
            self._reserve(max(self.store.widths[first:last]) + 1)
            forward = self._decode = DecodeForward(
                self.store, self._layers, first=first, last=last, interval=self._interval
            )
        forward.begin()
        self.cache.begin(forward)
        if self._steering is not None:
            self._steering.begin(first, ids, forward.positions, known=known)
        return forward

    def fixed_forward(self, count: int, kernel: Kernel) -> DecodeForward:
        """Decode steps of the first `count` sequences that are the same operations every time."""
        return DecodeForward(self.store, self._layers, first=0, last=count, kernel=kernel)

    def place_fixed(self, forward: DecodeForward, ids: Int[Tensor, "B 1"]) -> None:
        """What `begin_step` does on the device, for a forward pass of fixed operations."""
        forward.place()
        self.cache.begin(forward)
        if self._steering is not None:
            self._steering.begin(forward.first, ids, forward.positions, known=None)

    def end_fixed(self, forward: DecodeForward) -> None:
        """What `end` does on the device."""
        self.cache.end(0)
        self._end_step(forward)

    def arguments(self, forward: Forward) -> dict[str, Any]:
        """What the model must be called with beside its tokens."""
        return {
            "attention_mask": None,
            "position_ids": forward.positions,
            self._cache_name: self.cache,
            "use_cache": True,
        }

    def end(self, forward: Forward, ids: Int[Tensor, "B T"]) -> None:
        """A forward pass is over: note what it left behind."""
        self.cache.end(forward.columns)
        if isinstance(forward, DecodeForward):
            self._end_step(forward)
            return
        self._end_steering()
        if self._last_hidden is not None:
            self._read_prompt(forward, ids)
        self._last_hidden = None

    def _end_step(self, forward: DecodeForward) -> None:
        self._end_steering()
        if self._hidden is not None and self._last_hidden is not None:
            self._hidden.add(forward, self._last_hidden[:, 0])
        self._last_hidden = None

    def _end_steering(self) -> None:
        if self._steering is not None:
            for number, error in self._steering.end().items():
                self.running[number].error = self.running[number].error or error

    def failed(self) -> dict[int, SkipKVError]:
        """Sequences that cannot go on, and why."""
        return {n: r.error for n, r in enumerate(self.running) if r.error is not None}

    def why_no_token(self, number: int) -> SkipKVError:
        """Why a sequence's logits left no token to choose: its steerer broke, or the model did.

        Args:
            number: the sequence.
        """
        if (error := self.running[number].error) is not None:
            return error
        fault = None if self._steering is None else self._steering.fault(number)
        return fault or checked.not_finite("logits are", self.store.keys.dtype)

    def _note_peaks(self, numbers: Iterable[int]) -> None:
        """See how much sequences hold, before an event takes some of it away."""
        for number in numbers:
            running = self.running[number]
            running.peak_entries = max(running.peak_entries, self.store.widths[number])

    def peak_entries(self, number: int) -> int:
        """Most entries any head of a sequence held at once so far."""
        self._note_peaks([number])
        return self.running[number].peak_entries

    def events(self, numbers: Sequence[int]) -> dict[int, SkipKVError]:
        """Read new sentences, bring these sequences down to their budget; returns what failed."""
        self._note_peaks(numbers)
        self._read_decoded(numbers)
        for number in numbers:
            self._count_thoughts(number)
        if over := self._over_budget(numbers):
            entries = [self.store.widths[n] for n in over]
            outcomes = compress(
                self.store,
                self.policy,
                over,
                prompts=[self.running[n].prompt_tokens for n in over],
                tables=self._tables(over),
                trace=self.traces,
            )
            for number, before, outcome in zip(over, entries, outcomes, strict=True):
                self._note(number, before, outcome)
        failed = {n: error for n in numbers if (error := self.running[n].error) is not None}
        for number in failed:  # it cannot go on; neighbours must not make room for it
            self.store.clear(number)
        return failed

    def _over_budget(self, numbers: Sequence[int]) -> list[int]:
        """Those of these sequences that can go on and hold more than their budget allows."""
        budget, store = self.policy.budget, self.store
        if budget is None:
            return []
        return [
            n
            for n in numbers
            if self.running[n].error is None
            and store.widths[n]
            > budget.allowed(store.tokens_seen[n], self.running[n].prompt_tokens)
        ]

    def due(self) -> list[int]:
        """Decoding sequences for which an event follows the step just done."""
        if not self._has_events:
            return []
        seen = self.store.tokens_seen
        return [n for n in range(self.decoding) if (seen[n] - 1) % self._interval == 0]

    def steps_to_event(self) -> int | None:
        """Decode steps until some decoding sequence is due; None where none ever is."""
        if not self._has_events:
            return None
        seen = self.store.tokens_seen[: self.decoding]
        return min(self._interval - (tokens - 1) % self._interval for tokens in seen)

    def decoded(self, number: int, tokens: Sequence[int]) -> None:
        """Tokens that have been fed to a sequence after its prompt, for its segmenter to read."""
        if self.running[number].tracker is not None:
            self.running[number].unread += tokens

    @property
    def _has_events(self) -> bool:
        return self.policy.budget is not None or self.policy.needs.sentences

    def _note(self, number: int, entries: int, outcome: Outcome) -> None:
        running = self.running[number]
        running.events += 1
        running.drop(outcome.evicted, seen=self.store.tokens_seen[number])
        running.error = outcome.error
        if running.trace is not None and outcome.kept is not None:
            running.trace.append(
                EventRecord(
                    seen=self.store.tokens_seen[number],
                    entries=entries,
                    evicted=outcome.evicted,
                    kept=outcome.kept,
                )
            )

    def _tables(self, numbers: Sequence[int]) -> list[SentenceTable] | None:
        trackers = [self.running[n].tracker for n in numbers]
        tables = [t.table for t in trackers if t is not None]
        return tables or None

    def _read_prompt(self, forward: PromptForward, ids: Int[Tensor, "B T"]) -> None:
        """Give the trackers a chunk of prompt at once; it is on the host anyway."""
        assert self._last_hidden is not None
        stretches = {}
        for row, number in enumerate(range(forward.first, forward.last)):
            if count := forward.counts[row]:
                start = forward.columns - count
                stretches[number] = ids[row, start:].tolist(), self._last_hidden[row, start:]
        self._feed(stretches)

    def _read_decoded(self, numbers: Sequence[int]) -> None:
        """Give the trackers what was decoded since they were last fed."""
        if self._hidden is None:
            return
        stretches = {}
        for number in numbers:
            unread = self.running[number].unread
            if unread:
                seen = self.store.tokens_seen[number]
                stretches[number] = [*unread], self._hidden.newest(number, len(unread), seen=seen)
                unread.clear()
        self._feed(stretches)

    def _feed(self, stretches: Mapping[int, tuple[list[int], Float[Tensor, "_ E"]]]) -> None:
        """Give sequences' trackers tokens and their hidden states."""
        assert self._text is not None
        running = {n: self.running[n] for n in stretches if self.running[n].error is None}
        trackers = [cast(SentenceTracker, sequence.tracker) for sequence in running.values()]
        if not trackers:
            return
        tokens, hidden = zip(*(stretches[n] for n in running), strict=True)
        errors = feed(trackers, tokens, [self._text.pieces(t) for t in tokens], hidden)
        for sequence, error in zip(running.values(), errors, strict=True):
            sequence.error = error

    def _count_thoughts(self, number: int) -> None:
        """Tell the steering what was read: at events, so that it is told wherever a prompt was cut.

        Told after each piece of a prompt, it would push the prompt's last token harder where the
        thoughts before it came in an earlier piece.
        """
        running = self.running[number]
        if self._steering is not None and running.tracker is not None and running.error is None:
            self._steering.count(number, running.tracker.table.thoughts)

    def _see_hidden(self, module: torch.nn.Module, args: Any, output: Any) -> None:
        if under_way() is self.cache:
            self._last_hidden = output.last_hidden_state.detach()

    def _steer(self, module: torch.nn.Module, args: Any, kwargs: Any) -> Any:
        assert self._steering is not None
        return self._steering.hook(module, args, kwargs) if under_way() is self.cache else None
