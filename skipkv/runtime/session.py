"""A model, a policy and the sequences now being decoded: what `Engine` and `attach` both drive.

The session owns all that changes: the slot store, the sequences' tokens and sentences. Every
forward pass goes through its `run`, and it runs compression events when asked.
"""

from collections import abc
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from operator import add
from typing import Any, cast

import attrs
import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformers import PreTrainedModel

from skipkv._calls import writers_of
from skipkv.errors import ModelError, SkipKVError
from skipkv.models.architecture import decoder_layers, text_config
from skipkv.policy import Policy
from skipkv.runtime.parts import checked
from skipkv.runtime.parts.event import Outcome, budgets_of, compress
from skipkv.runtime.parts.steering import Steering, check_steerer
from skipkv.runtime.requests.prefill import ends, plan
from skipkv.runtime.requests.prefix import PrefixState
from skipkv.runtime.requests.sequence import Sequence
from skipkv.runtime.requests.telling import tell_events, tell_shared
from skipkv.runtime.results.completion import Stats
from skipkv.runtime.results.observers import (
    Observers,
    ScoreLog,
    Steered,
)
from skipkv.runtime.seam.cache import SlotCache, under_way
from skipkv.runtime.seam.compiled import CompiledLayers
from skipkv.runtime.seam.names import cache_name
from skipkv.runtime.sentence_reader import SentenceReader
from skipkv.runtime.store.decode import DecodeForward
from skipkv.runtime.store.forward import Forward, PromptForward
from skipkv.runtime.store.kernels import Kernel
from skipkv.runtime.store.slots import put
from skipkv.runtime.store.store import SlotStore
from skipkv.runtime.store.writing import Writing
from skipkv.runtime.support.checks import cache_shape, layer_groups, least_budget
from skipkv.runtime.support.continuing import continues
from skipkv.runtime.support.ranks import ranks_of
from skipkv.runtime.support.rotary import rotation_of
from skipkv.runtime.text.thinking import ThinkingMarks
from skipkv.runtime.text.token_text import TokenText

# Entries there is room for at first, and steps between two looks at the sentences, where no budget
# in tokens says.
_ROOM = 512
_INTERVAL = 128


@attrs.frozen(kw_only=True)
class Pass:
    """A forward pass that a session has prepared.

    Args:
        forward: what cache and attention need to know of it.
        ids: the tokens it feeds.
        known: the tokens of a decode step again, where the host has them.
        columns: columns that it adds to the length of the cache, as transformers counts it.
    """

    forward: Forward
    ids: Int[Tensor, "B T"]
    known: abc.Sequence[int] | None = None
    columns: int


class Session:
    """The state of decoding: one slot store and the sequences in it.

    `sequences` lists them in the order of their lanes, which lie side by side in the store. The
    first `decoding` of them decode. The others are still being fed their prompts. So a decode step
    and a pass over prompts both work on neighbours.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        policy: Policy,
        *,
        sequences: int,
        text: TokenText | None,
        thinking: ThinkingMarks | None = None,
        observers: Observers | None = None,
        longest: int | None = None,
        compiled: CompiledLayers | None = None,
    ) -> None:
        """Allocate what these sequences need.

        Args:
            model: a causal language model of transformers.
            policy: what to keep.
            sequences: decoded side by side, at most.
            text: of tokens, where the policy reads any.
            thinking: how the model marks its thinking; None where it does not.
            observers: told of events, and of what the steerer did.
            longest: tokens that one of them can come to, prompt included; None where it is unknown.
            compiled: the model's layers for decode steps; None leaves them as they are.
        """
        config = text_config(model)
        self.model = model
        self.policy = policy
        self._compiled = compiled
        self.observers = observers
        # A budget may be larger than all that a sequence can come to hold.
        if longest is None:
            longest = getattr(config, "max_position_embeddings", None)
        self._device = model.device
        shape = cache_shape(config, ranks=ranks_of(model))
        self.heads = shape.layers * shape.heads  # KV heads of all layers together
        groups = layer_groups(policy, shape.layers, shape.heads)
        self._least = least_budget(policy, config)
        self.store = SlotStore(
            shape,
            sequences=sequences,
            capacity={
                layers: min(room or _ROOM, longest or room or _ROOM)
                for layers, room in groups.items()
            },
            needs=policy.needs,
            longest=longest,
            dtype=model.dtype,
            device=self._device,
        )
        self._rotation = rotation_of(model) if policy.needs.rotary else None
        self.cache = SlotCache(config, dtype=model.dtype)
        if writers := writers_of(policy.scorer, policy.evictor) if policy.needs.written else []:
            self.cache.writing = Writing(writers, shape.numbers)
        self._cache_name = cache_name(model)
        self.sequences: list[Sequence] = []
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
                thinking=thinking,
                device=self._device,
                watched=observers is not None and observers.steering,
            )
        # Read at events, so as many as there are steps between two of them are enough.
        self._interval = _INTERVAL if policy.budget is None else policy.budget.interval
        self._reader = None
        if policy.needs.sentences:
            assert text is not None
            self._reader = SentenceReader(
                model, policy, self.store, self.cache, text=text, kept=self._interval
            )
        self._decode: DecodeForward | None = None

    @contextmanager
    def hooked(self) -> Iterator[None]:
        """While it lasts, hidden states are seen and steered in this session's passes."""
        handles = []
        try:
            if self._reader is not None:
                handles.append(self.model.base_model.register_forward_hook(self._reader.hook))
            if self._steering is not None:
                layer = decoder_layers(self.model)[cast(int, self.policy.steerer.layer)]
                handles.append(layer.register_forward_pre_hook(self._steer, with_kwargs=True))
            if (writing := self.cache.writing) is not None:  # after steering: it sees what enters
                for number in writing.layers:
                    layer = decoder_layers(self.model)[number]
                    hook = partial(self._enter, writing.hook(number))
                    handles.append(layer.register_forward_pre_hook(hook, with_kwargs=True))
            yield
        finally:
            self.cache.abandon()  # a pass that failed
            for handle in handles:
                handle.remove()

    def start(self, sequence: Sequence) -> Sequence:
        """Add a sequence whose prompt is still to be fed, in the first free lane."""
        sequence.lane = len(self.sequences)
        self.sequences.append(sequence)
        self.store.clear(sequence.lane)
        if self._reader is not None:
            sequence.tracker = self._reader.tracker(sequence.prompt_tokens)
        if self._steering is not None:
            self._steering.start(sequence.lane)
        return sequence

    def start_copy(self, source: Sequence, sequence: Sequence) -> None:
        """Add a sequence with the prompt of another one, which has just been fed."""
        self.start(sequence)
        self._copy_rows([sequence.lane], [source.lane])
        sequence.share_prompt(source)
        tell_shared(self.observers, sequence)

    def start_after(self, state: PrefixState, sequence: Sequence) -> None:
        """Add a sequence whose prefix has been read by another one."""
        self.start(sequence)
        self._reserve([rows.width for rows in state.lane.groups])
        self.store.load(sequence.lane, state.lane)
        if self._steering is not None and state.steering is not None:
            self._steering.load(sequence.lane, state.steering)
        sequence.begin_after(state)
        tell_shared(self.observers, sequence)

    def prefix_state(self, sequence: Sequence) -> PrefixState:
        """What a sequence has, which has just been fed its prefix, for others to begin with."""
        return PrefixState(
            tokens=sequence.reading.fed,
            lane=self.store.save(sequence.lane),
            steering=None if self._steering is None else self._steering.save(sequence.lane),
            tracker=None if sequence.tracker is None else sequence.tracker.copy(),
            events=sequence.events,
            evicted=sequence.evicted,
            peak_entries=sequence.peak_entries,
            observers=self.observers,
            shared=[*(sequence.shared or ())],
        )

    def replace(self, sequence: Sequence, heir: Sequence) -> None:
        """Let another sequence go on in the place of one, with the same prompt."""
        heir.lane = sequence.lane
        self.sequences[heir.lane] = heir
        heir.share_prompt(sequence)
        tell_shared(self.observers, heir)

    def join(self, sequence: Sequence) -> None:
        """Let a sequence decode from now on, in the lane after those that do.

        It changes places with the sequence in that lane.
        """
        lane = sequence.lane
        self._put({self.decoding: lane, lane: self.decoding})
        self.decoding += 1

    def stop(self, sequence: Sequence) -> None:
        """Remove a sequence.

        The last sequence of all moves to its lane. If it decoded, the last one that decodes moves
        to its lane, and the last of all moves to the lane of that one.
        """
        last, lane = len(self.sequences) - 1, sequence.lane
        if lane < self.decoding:
            self.decoding -= 1
            self._put({lane: self.decoding, self.decoding: last})
        else:
            self._put({lane: last})
        self.sequences.pop()

    def _put(self, sources: Mapping[int, int]) -> None:
        """Put the sequence in lane `sources[lane]` into `lane`, for all of these at once."""
        moving = {lane: source for lane, source in sources.items() if lane != source}
        if not moving:
            return
        targets, origins = list(moving), list(moving.values())
        self._copy_rows(targets, origins)
        put(self.sequences, targets, origins)
        for lane in targets:
            self.sequences[lane].lane = lane

    def _copy_rows(self, targets: list[int], sources: list[int]) -> None:
        hidden = None if self._reader is None else self._reader.decoded
        for holder in (self.store, self._steering, hidden):
            if holder is not None:
                holder.put(targets, sources)

    def stats(
        self, sequence: Sequence, *, new_tokens: int, seconds: float, steps_ago: int = 0
    ) -> Stats:
        """What a sequence has cost.

        Args:
            sequence: one of the session's.
            new_tokens: tokens decoded, the newest one included.
            seconds: since the prompt's first pass.
            steps_ago: leave out this many of the last decode steps; no event came in them.
        """
        return Stats(
            new_tokens=new_tokens,
            events=sequence.events,
            evicted=sequence.evicted,
            mean_entries=sequence.mean_entries(new_tokens, self.heads),
            peak_entries=max(sequence.peak_entries, self.store.widths[sequence.lane] - steps_ago),
            peak_kv_bytes=self.store.peak_bytes // self.store.sequences,
            seconds=seconds,
            padding=sequence.padding,
        )

    @property
    def decoders(self) -> list[Sequence]:
        """The sequences that decode, in the order of their lanes."""
        return self.sequences[: self.decoding]

    @property
    def newcomers(self) -> list[Sequence]:
        """The sequences that are still being fed their prompts, in the order of their lanes."""
        return self.sequences[self.decoding :]

    @property
    def room(self) -> int | None:
        """Entries that every head has room for at least; None where the cache grows."""
        return None if self._least is None else self._least.capacity

    @property
    def pads(self) -> bool:
        """Whether rows of a pass may differ in length: padding would change a layer's states."""
        return self.store.states is None

    @property
    def continues(self) -> bool:
        """Whether several tokens may be fed at once after others: see `continuing.continues`."""
        return continues(self.model)

    def forget_padding(self) -> None:
        """Erase the states of sequences that have been fed padding only so far."""
        if not self.pads:
            for sequence in self.sequences:
                if not self.store.tokens_seen[sequence.lane]:
                    self.store.clear(sequence.lane)

    def _make_room(self, first: int, counts: abc.Sequence[int]) -> None:
        """Make room for so many more tokens in each of the lanes from `first` on."""
        widths = [group.widths[first:] for group in self.store.groups]
        self._reserve([max(map(add, own, counts)) for own in widths])

    def _reserve(self, rooms: abc.Sequence[int]) -> None:
        """Make room for so many entries of each head, a number for each group of layers."""
        if not self.store.lacks_room(rooms):
            return
        self._decode = None  # its views would keep the old cache alive
        ends = [sequence.most_tokens for sequence in self.sequences]
        known = [end for end in ends if end is not None]
        self.store.reserve(rooms, limit=max(known) if len(known) == len(ends) else None)

    def passes(self, prompts: abc.Sequence[int]) -> list[list[range]]:
        """The forward passes that bring in prompts of these lengths: see `prefill.plan`.

        Where the cache grows, under a ratio too, a prompt goes in whole.
        """
        return plan(prompts, self.room or max(prompts), self._interval)

    def ends(self, prompt: int, *, prefix: int = 0) -> list[int]:
        """Where the passes over a prompt of this length end: see `prefill.ends`."""
        budget = None if self._least is None else self._least.tokens
        return ends(prompt, prefix=prefix, first=self.room, chunk=self._interval, budget=budget)

    def prompts(
        self,
        first: int,
        counts: abc.Sequence[int],
        ids: Int[Tensor, "B T"],
        *,
        columns: int | None = None,
    ) -> Pass:
        """A pass that feeds prompts to the sequences from lane `first` on.

        Args:
            first: the first lane.
            counts: tokens of each prompt. They lie in the last columns of a row of `ids`; what
                stands before them is padding.
            ids: the tokens.
            columns: what the pass adds to the length of the cache, if not all columns of `ids`.
        """
        self._make_room(first, counts)
        forward = PromptForward(self.store, first=first, counts=counts, columns=ids.shape[1])
        return Pass(forward=forward, ids=ids, columns=ids.shape[1] if columns is None else columns)

    def step(self, ids: Int[Tensor, "B 1"], *, known: abc.Sequence[int] | None = None) -> Pass:
        """A decode step.

        Args:
            ids: a token for each of the first lanes.
            known: the tokens again, where the host has them.
        """
        forward, count = self._decode, ids.shape[0]
        if forward is None or forward.last != count or not forward.current:
            forward = None
            self._make_room(0, [1] * count)
            forward = self._decode = DecodeForward(
                self.store, first=0, last=count, interval=self._interval
            )
        return Pass(forward=forward, ids=ids, known=known, columns=1)

    def fixed_step(self, ids: Int[Tensor, "B 1"], kernel: Kernel) -> Pass:
        """A decode step that is the same operations every time, so that it can be recorded.

        Args:
            ids: where the tokens of the first lanes are found at every step.
            kernel: the attention.
        """
        forward = DecodeForward(self.store, first=0, last=len(ids), kernel=kernel)
        return Pass(forward=forward, ids=ids, columns=1)

    @contextmanager
    def run(self, pass_: Pass) -> Iterator[dict[str, Any]]:
        """Run a pass: call the model in the `with` block, with the arguments it gives."""
        yield self.begin(pass_)
        self.end(pass_)

    def begin(self, pass_: Pass) -> dict[str, Any]:
        """Begin a pass; returns the model's arguments. `run` does, except where hooks must."""
        forward = pass_.forward
        if isinstance(forward, DecodeForward):
            # The host counts a recorded step whenever it is replayed.
            forward.place() if forward.fixed else forward.begin()
        self.cache.begin(forward)
        if self._steering is not None:
            self._begin_steering(self._steering, pass_)
        return {
            "input_ids": pass_.ids,
            "attention_mask": None,
            "position_ids": forward.positions,
            self._cache_name: self.cache,
            "use_cache": True,
        }

    def end(self, pass_: Pass) -> None:
        """End a pass: check what the layers did, and read its hidden states."""
        forward = pass_.forward
        self.cache.end(pass_.columns)
        if self._steering is not None:
            for lane, error in self._steering.end().items():
                self.sequences[lane].error = self.sequences[lane].error or error
        if self.cache.writing is not None and (fault := self.cache.writing.end()) is not None:
            for sequence in self.sequences[forward.first : forward.last]:
                sequence.error = sequence.error or fault
        if self._reader is not None:
            rows = self.sequences[forward.first : forward.last]
            self._reader.end(forward, pass_.ids, rows)

    def logits(self, pass_: Pass) -> Float[Tensor, "B V"]:
        """Run a pass; returns the logits of its last column."""
        with self.run(pass_) as arguments:
            layers = self._compiled
            if layers is None or layers.failed or not isinstance(pass_.forward, DecodeForward):
                return self._last_logits(arguments)
            if layers.trusts(len(pass_.ids)):
                with layers.exchanged():
                    return self._last_logits(arguments)
            # A trial. All that it writes is written again by the pass itself, but for states.
            states = self.store.states
            held = None if states is None else states.save()
            tried = layers.attempt(partial(self._last_logits, arguments))
            self.cache.begin(pass_.forward)
            if states is not None and held is not None:
                states.load(held)
            found = self._last_logits(arguments)
            if tried is not None:
                layers.compare(tried, found, self.model.dtype)
            return found

    def _last_logits(self, arguments: dict[str, Any]) -> Float[Tensor, "B V"]:
        """The logits of the last column of a pass under way."""
        return self.model(**arguments, logits_to_keep=1).logits[:, -1]  # type: ignore[no-any-return]

    def _begin_steering(self, steering: Steering, pass_: Pass) -> None:
        forward, ids = pass_.forward, pass_.ids
        if isinstance(forward, DecodeForward):
            steering.begin(forward.first, ids, forward.positions, known=pass_.known)
            return
        sequences = self.sequences[forward.first : forward.last]
        steering.begin_prompt(
            forward.first,
            [ids[b, ids.shape[1] - n :].tolist() for b, n in enumerate(forward.counts)],
            [self.store.tokens_seen[s.lane] >= s.prompt_tokens for s in sequences],
            forward.positions[:, -1],
        )

    def steered_prompt(self) -> bool:
        """Whether the last pass over prompts was steered; see `Steering.ended_thought`."""
        return self._steering is not None and self._steering.ended_thought()

    def why_no_token(self, sequence: Sequence) -> SkipKVError:
        """Why a sequence's logits left no token to choose: its steerer broke, or the model did."""
        if sequence.error is not None:
            return sequence.error
        return self._blamed(sequence, checked.not_finite("logits are", self.store.dtype))

    def _blamed(self, sequence: Sequence, error: SkipKVError) -> SkipKVError:
        """An error, or its steerer's where that made what the model computed not finite."""
        if not isinstance(error, ModelError) or self._steering is None:
            return error
        return self._steering.fault(sequence.lane) or error

    def events(self, sequences: abc.Sequence[Sequence]) -> None:
        """Read new sentences of these sequences, and bring them down to their budget.

        One that cannot go on has an `error` then.
        """
        widths = self.store.widths
        held = [widths[sequence.lane] for sequence in sequences]
        for sequence, entries in zip(sequences, held, strict=True):
            sequence.peak_entries = max(sequence.peak_entries, entries)
        self.read(sequences)
        self.store.settle()
        for sequence in sequences:
            sequence.error = sequence.error or self.store.faults[sequence.lane]
            self._count_thoughts(sequence)
        observers = self.observers
        log = None
        if observers is not None and (observers.scores or observers.terms):
            log = ScoreLog(self.policy.scorer, terms=observers.terms)
        outcomes: dict[Sequence, Outcome] = {}
        if over := self.over_budget(sequences):
            # Parts compute in the dtype of what they see, whatever the model is decoded under. What
            # they remember stays in the cache, and would keep the graph of a gradient there.
            with torch.no_grad(), torch.autocast(self._device.type, enabled=False):
                found = compress(
                    self.store,
                    self.policy,
                    [sequence.lane for sequence in over],
                    # of a prompt that has been fed in part, that part
                    prompts=[min(s.prompt_tokens, self.store.tokens_seen[s.lane]) for s in over],
                    tables=[s.tracker.table for s in over if s.tracker is not None] or None,
                    rotation=self._rotation,
                    watch=None if log is None else log.add,
                )
            for sequence, outcome in zip(over, found, strict=True):
                outcomes[sequence] = outcome
                sequence.events += 1
                sequence.drop(outcome.evicted, seen=self.store.tokens_seen[sequence.lane])
                if outcome.error is not None:
                    sequence.error = self._blamed(sequence, outcome.error)
        if observers is not None and observers.events and sequences:
            tell_events(observers, self.store, sequences, held, outcomes, log)
        for sequence in sequences:
            if sequence.error is not None:  # its neighbours must not make room for it
                self.store.clear(sequence.lane)

    def over_budget(self, sequences: abc.Sequence[Sequence]) -> list[Sequence]:
        """Those of these sequences that can go on and hold more than their budget allows."""
        if self.policy.budget is None:
            return []
        seen = self.store.tokens_seen
        held = [(g.widths, own) for g, own in budgets_of(self.policy.budget, self.store)]
        return [
            s
            for s in sequences
            if s.error is None
            and any(
                widths[s.lane] > own.allowed(seen[s.lane], s.prompt_tokens) for widths, own in held
            )
        ]

    def due(self) -> list[Sequence]:
        """Decoding sequences for which an event follows the step just done."""
        if not self._has_events:
            return []
        seen = self.store.tokens_seen
        return [s for s in self.decoders if (seen[s.lane] - 1) % self._interval == 0]

    def steps_to_event(self) -> int | None:
        """Decode steps until some decoding sequence is due; None where none ever is."""
        if not self._has_events:
            return None
        seen = self.store.tokens_seen[: self.decoding]
        return min(self._interval - (tokens - 1) % self._interval for tokens in seen)

    @property
    def _has_events(self) -> bool:
        return self.policy.budget is not None or self.store.needs.sentences

    def take_steered(self) -> tuple[Steered, ...]:
        """What the steerer did in the passes since the last call, where that is observed."""
        return () if self._steering is None else self._steering.take()

    @contextmanager
    def recording_steering(self, acts: list[Steered]) -> Iterator[None]:
        """Within this context a pass is recorded: what its steerer does is told when it runs."""
        yield
        if self._steering is not None:
            acts += self._steering.take_newest()

    def replayed_steering(self, acts: abc.Sequence[Steered]) -> None:
        """A recorded pass has run."""
        if self._steering is not None:
            self._steering.again(acts)

    def read(self, sequences: abc.Sequence[Sequence]) -> None:
        """Read the sentences that were decoded since they were last read."""
        if self._reader is not None:
            self._reader.read(sequences)

    def _count_thoughts(self, sequence: Sequence) -> None:
        """Tell the steering what was read: at events, so that it is told wherever a prompt was cut.

        Told after each piece of a prompt, it would push the prompt's last token harder where the
        thoughts before it came in an earlier piece.
        """
        tracker = sequence.tracker
        if self._steering is not None and tracker is not None and sequence.error is None:
            self._steering.count(sequence.lane, tracker.table.thoughts)

    def _enter(self, hook: abc.Callable[..., None], *given: Any) -> None:
        if under_way() is self.cache:
            hook(*given)

    def _steer(self, module: torch.nn.Module, args: Any, kwargs: Any) -> Any:
        assert self._steering is not None
        return self._steering.hook(module, args, kwargs) if under_way() is self.cache else None
