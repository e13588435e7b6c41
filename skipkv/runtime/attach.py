"""The same cache and the same events under anybody's `model.generate()`."""

import threading
import time
import warnings
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import wraps
from typing import Any, NoReturn

import attrs
import torch
from jaxtyping import Bool, Int
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from skipkv.budget import Budget
from skipkv.errors import ConfigError, InputError, SkipKVWarning
from skipkv.models.architecture import text_config
from skipkv.policy import Policy
from skipkv.runtime.parts.steering import check_steerer, warn_if_idle
from skipkv.runtime.requests.sampling import can_choose
from skipkv.runtime.requests.sequence import Sequence as Row
from skipkv.runtime.results.completion import EventRecord, Stats
from skipkv.runtime.results.observers import EventLog, Observers
from skipkv.runtime.seam.functions import NAME
from skipkv.runtime.seam.lending import ATTACH, borrowed
from skipkv.runtime.seam.names import CACHE_NAMES, check_version
from skipkv.runtime.seam.wrapped import causal_lm
from skipkv.runtime.session import Pass, Session
from skipkv.runtime.store.forward import PromptForward
from skipkv.runtime.support.calls import (
    aligned,
    check_cache,
    check_history,
    check_positions,
    keywords,
    real_tokens,
)
from skipkv.runtime.support.checks import (
    check_architecture,
    check_layers,
    check_policy,
    check_prompt,
    check_tokenizer,
    least_budget,
)
from skipkv.runtime.support.continuing import continues, warn_of_single_tokens
from skipkv.runtime.support.fits import check_fits
from skipkv.runtime.support.ranks import check_devices
from skipkv.runtime.support.rotary import check_rotary
from skipkv.runtime.text.thinking import ThinkingMarks, thinking_marks
from skipkv.runtime.text.token_text import TokenText
from skipkv.runtime.trial import check_untested

# What transformers' continuous batching is started by: it decodes with a cache of its own, in a
# thread whose errors do not reach the caller.
_PAGED = ("generate_batch", "init_continuous_batching", "continuous_batching_context_manager")
# What transformers' generate() prepares every pass with. It says which of them are over a prompt.
_PREPARE = "prepare_inputs_for_generation"
_STEERED_PIECE = (
    "A piece of the prompt, cut by prefill_chunk_size, ends a paragraph of thinking. It was "
    "steered there, because nothing tells whether a piece is the last one. A prompt fed whole is "
    "steered at its end only. Give another prefill_chunk_size, or none: skipkv feeds long prompts "
    "in chunks."
)
# Forward passes between two looks at whether logits were finite, where looking makes the device
# wait.
_UNSEEN = 16


@contextmanager
def attach(
    model: torch.nn.Module,
    policy: Policy,
    *,
    tokenizer: PreTrainedTokenizerBase | None = None,
    trace: bool = False,
    thinking: ThinkingMarks | str | None = "auto",
) -> Iterator["Attachment"]:
    """Make `model.generate()` decode under a policy while the context lasts.

    Batches, left padding and sampling work as always; padding takes no room in the cache. Prompts
    longer than the budget go in in chunks. On exit, after an error too, the model is as it was.

    Args:
        model: a causal language model of transformers, or a wrapper around one: a PEFT
            adapter, `torch.compile(model)`, one that adds a value head.
        policy: what to keep. Its scheduler rests: `generate()` decodes the batch it is given.
        tokenizer: needed by policies that read sentences or steer.
        trace: record every compression event, with the positions kept.
        thinking: how the model marks its thinking, where the policy steers; "auto" finds it in the
            tokenizer's vocabulary and chat template. None means that it does not: a steerer acts
            wherever it decodes.

    Yields:
        An `Attachment`, which says what the last generation cost.

    Raises:
        UnsupportedModelError: an architecture the runtime does not decode, or a model of a family
            that is not tested and that decodes in another way through skipkv's cache.
        ConfigError: the policy is none, or needs a tokenizer, or a layer the model does not have.
        InputError: the tokenizer is not one. `generate()` raises it for inputs that cannot be
            decoded so: right padding, a cache of one's own, `use_cache=False`.
        PartError: raised by `generate()` when a part of the policy breaks its protocol.
        ModelError: raised by `generate()` when the logits are NaN or infinite: at once on a CPU,
            and within 16 tokens or at the end of the context on an accelerator.

    Example:
        >>> import skipkv
        >>> from skipkv.testing import toy_model
        >>> model = toy_model()
        >>> with skipkv.attach(model, skipkv.presets.snapkv(budget=32, interval=16)) as attached:
        ...     _ = model.generate(torch.tensor([[5, 6, 7]]), max_new_tokens=100, do_sample=False)
        >>> attached.peak_entries
        [48]
    """
    check_policy(policy, user="skipkv.attach")
    if tokenizer is not None:
        check_tokenizer(tokenizer, user="skipkv.attach")
    model = causal_lm(model, user="skipkv.attach")
    check_version()
    found = check_architecture(model)
    check_steerer(policy.steerer, layers=found.layers, width=found.hidden_size)
    check_rotary(policy, model)
    check_fits(policy, model)
    check_devices(model, policy)
    check_layers(policy, model.config)
    least = least_budget(policy, model.config)
    if tokenizer is None and (policy.needs.sentences or policy.steerer.layer is not None):
        raise ConfigError(
            "This policy reads text (sentences or steering). Give the tokenizer: "
            "skipkv.attach(model, policy, tokenizer=tokenizer)."
        )
    check_untested(model, by=ATTACH)
    continues(model)  # tried now, while nothing is under way
    attachment = Attachment(model, policy, tokenizer, least=least, trace=trace, thinking=thinking)
    if attachment._text is not None:
        warn_if_idle(
            policy.steerer,
            attachment._text,
            attachment._thinking,
            vocabulary=text_config(model).vocab_size,
        )
    with (
        borrowed(model, by=ATTACH),
        _without_paging(model, attachment),
        _told_of_prompts(model, attachment),
    ):
        handles = [
            model.register_forward_pre_hook(attachment._before, with_kwargs=True),
            model.register_forward_hook(attachment._after, with_kwargs=True, always_call=True),
        ]
        try:
            yield attachment
            attachment._check_logits()
        finally:
            for handle in handles:
                handle.remove()
            attachment._close()
    if not attachment._called:
        warnings.warn(
            f"No forward pass of {type(model).__name__} was seen while a policy was attached to "
            "it. If something was generated meanwhile, another module decoded it, under no policy: "
            "attach to the model whose generate() is called.",
            SkipKVWarning,
            stacklevel=3,  # the line of the `with`
        )


@contextmanager
def _without_paging(model: PreTrainedModel, attachment: "Attachment") -> Iterator[None]:
    """Refuse transformers' continuous batching while a policy is attached."""

    def refuse(*args: Any, **kwargs: Any) -> NoReturn:
        attachment._called = True
        raise InputError(
            "generate_batch() decodes with a paged cache of its own, which no policy can be "
            "attached to. Use model.generate(), or skipkv.Engine, which batches continuously."
        )

    names = [name for name in _PAGED if hasattr(model, name) and name not in vars(model)]
    for name in names:
        vars(model)[name] = refuse
    try:
        yield
    finally:
        for name in names:
            del vars(model)[name]


@contextmanager
def _told_of_prompts(model: PreTrainedModel, attachment: "Attachment") -> Iterator[None]:
    """Tell an attachment for which passes `generate()` prepares a piece of a prompt."""
    own, inner = vars(model).get(_PREPARE), getattr(model, _PREPARE)

    @wraps(inner)
    def prepare(*args: Any, **kwargs: Any) -> Any:
        attachment._reads = bool(kwargs.get("is_first_iteration"))
        return inner(*args, **kwargs)

    vars(model)[_PREPARE] = prepare
    try:
        yield
    finally:
        if own is None:
            del vars(model)[_PREPARE]
        else:
            vars(model)[_PREPARE] = own


class Attachment:
    """What `attach` put on a model, and what its last generation cost, one number per sequence.

    Args:
        model: the model it is on.
        policy: what is kept.
        tokenizer: where the policy reads text.
        least: the smallest budget of a layer.
        trace: whether events are recorded.
        thinking: how the model marks its thinking, or "auto".
    """

    def __init__(
        self,
        model: PreTrainedModel,
        policy: Policy,
        tokenizer: PreTrainedTokenizerBase | None,
        *,
        least: Budget | None,
        trace: bool,
        thinking: ThinkingMarks | str | None = "auto",
    ) -> None:
        self._model = model
        self._policy = policy
        self._least = least
        self._text = None if tokenizer is None else TokenText(tokenizer)
        self._thinking = thinking_marks(thinking, tokenizer, user="skipkv.attach")
        self._tracing = trace
        self._trace: EventLog | None = None
        self._eos = _eos(model, tokenizer)
        self._fillers = (
            self._eos
            | _as_ids(getattr(model.generation_config, "pad_token_id", None))
            | _as_ids(None if tokenizer is None else tokenizer.pad_token_id)
        )
        self._session: Session | None = None
        self._hooks = ExitStack()
        self._pass: Pass | None = None  # the one that the caller asked for
        self._passing = threading.Lock()  # held while a forward pass is under way
        self._thread = 0  # that of the pass
        self._called = False  # whether the model's forward was ever called
        self._prompting = False  # until the first decode step
        self._reads = False  # whether generate() said that the next pass is over a prompt
        self._stepped = False  # whether the newest pass was a decode step, with its events to come
        self._nested = False  # a pass of our own, before the one the caller asked for
        self._decoded: list[Int[Tensor, "B 1"]] = []  # tokens not read yet
        self._done: dict[int, Stats] = {}  # of rows that wait for the others
        # Of rows that may end with the token after those read, or have ended with the last of them.
        self._so_far: dict[int, tuple[Stats, Stats]] = {}
        self._finite: list[Bool[Tensor, "B"]] = []  # of passes whose logits were not looked at
        self._started = self._passed = 0.0  # seconds

    @property
    def stats(self) -> list[Stats]:
        """What each sequence of the last generation cost, as a `Completion` of the Engine has it.

        As for the Engine, the last token decoded counts, though it is never fed. In a batch a row
        has ended where the model's end-of-sequence token comes, or where padding follows. Where
        `generate()` pads with another token than the model's and the tokenizer's, that counts too.
        """
        session = self._last
        self._read()
        seconds = self._passed - self._started
        return [
            attrs.evolve(self._done.get(row.lane) or self._stats(row), seconds=seconds)
            for row in session.sequences
        ]

    def _stats(self, row: Row, *, steps_ago: int = 0) -> Stats:
        """What a row had cost some decode steps ago, with no event since."""
        session = self._last
        fed = session.store.tokens_seen[row.lane] - steps_ago - row.prompt_tokens
        return session.stats(row, new_tokens=fed + 1, seconds=0.0, steps_ago=steps_ago)

    @property
    def events(self) -> list[int]:
        """Compression events that dropped something."""
        return [stats.events for stats in self.stats]

    @property
    def evicted(self) -> list[int]:
        """Entries dropped, summed over layers and KV heads."""
        return [stats.evicted for stats in self.stats]

    @property
    def peak_entries(self) -> list[int]:
        """Most entries any head of any layer held at once."""
        return [stats.peak_entries for stats in self.stats]

    @property
    def peak_kv_bytes(self) -> int:
        """Bytes allocated for keys and values at most, for the whole batch, as measured."""
        return self._last.store.peak_bytes

    @property
    def trace(self) -> list[tuple[EventRecord, ...]]:
        """Every sequence's compression events, where `attach(trace=True)` asked for them."""
        trace = self._trace
        return [
            () if trace is None else trace.of(row.index, row.sample)[: stats.events]
            for row, stats in zip(self._last.sequences, self.stats, strict=True)
        ]

    @property
    def _last(self) -> Session:
        if self._session is None:
            raise InputError("Nothing has been generated under this attachment yet.")
        return self._session

    def _before(self, module: torch.nn.Module, args: Any, kwargs: Any) -> Any:
        """A forward pre-hook of the model: exchange the cache, bring in what precedes this pass."""
        self._called = True
        thread = threading.get_ident()
        if self._nested and self._thread == thread:
            return None
        if not self._passing.acquire(blocking=False) and self._thread != thread:
            raise InputError(
                "Two threads call a model that a policy is attached to. One generation at a time: "
                "wait for the other, or load the model twice."
            )
        self._thread = thread
        if (attention := self._model.config._attn_implementation) != NAME:
            raise InputError(
                f"The model's attention became {attention!r} while a policy was attached to it. "
                "Choose it before skipkv.attach, which computes attention itself."
            )
        kwargs = keywords(self._model.config, args, kwargs)
        given = [kwargs.pop(name) for name in CACHE_NAMES if kwargs.get(name) is not None]
        cache = given[0] if given else None
        starting = self._session is None or cache is not self._session.cache
        if starting:
            check_cache(cache)
        ids, real = real_tokens(kwargs)
        # The last piece of a prompt may be one token: generate(prefill_chunk_size=...).
        reads, self._reads = self._reads and self._prompting, False
        # When decoding, a look at the mask would only wait.
        decoding = not starting and ids.shape[1] == 1 and not reads
        if decoding:
            counts = [1] * len(ids)
        else:
            ids, counts = aligned(ids, real, last_only=kwargs.get("logits_to_keep") == 1)
        if starting:
            self._start(counts)
        session = self._last
        if len(ids) != len(session.sequences):
            raise InputError(
                f"The cache holds {len(session.sequences)} sequences, and this pass has {len(ids)} "
                "rows. Feed all of them, or start a new generation with the rows that are wanted."
            )
        self._catch_up(session)
        seen = session.store.tokens_seen
        if decoding:
            if 0 in seen[: len(ids)]:
                raise InputError(
                    f"Prompt {seen.index(0)} is empty: its attention mask is all zero."
                )
        elif not starting:
            check_history(kwargs.get("attention_mask"), ids.shape[1], seen)
            # what was decoded must be read before the tokens of this pass are
            self._read()
            session.read(session.sequences)
            self._done.clear()
            self._so_far.clear()
            if self._prompting:  # generate(prefill_chunk_size=...)
                if session.steered_prompt():
                    warnings.warn(_STEERED_PIECE, SkipKVWarning, stacklevel=2)
                for row, count in zip(session.sequences, counts, strict=False):
                    row.lengthen_prompt(count)
        if not decoding or ids.device.type == "cpu":
            check_positions(kwargs.get("position_ids"), real, seen)
        return (), self._arguments(session, ids, counts, kwargs, prompt=not decoding)

    def _arguments(
        self,
        session: Session,
        ids: Int[Tensor, "B T"],
        counts: list[int],
        kwargs: dict[str, Any],
        *,
        prompt: bool,
    ) -> dict[str, Any]:
        """Feed all of a prompt but its last pass; the arguments for that one."""
        columns = ids.shape[1]
        why = self._why_cut(session, counts) if prompt else None
        if why is not None:
            if not kwargs.get("logits_to_keep"):
                raise InputError(
                    f"{why} is fed in chunks; logits for all of it cannot be given. Use "
                    "model.generate(), or pass logits_to_keep=1."
                )
            if kwargs.get("output_hidden_states") or self._model.config.output_hidden_states:
                raise InputError(
                    f"{why} is fed in chunks; hidden states for all of it cannot be given. Remove "
                    f"output_hidden_states=True{', or raise the budget' if session.pads else ''}."
                )
            if session.pads:
                *earlier, (ids, counts) = _chunks(ids, counts, session.passes(counts))
                for chunk, sizes in earlier:
                    self._run(session, chunk, sizes)
            else:
                ids, counts = self._run_rows(session, ids, counts)
        if prompt:
            # What generate() counts on is what it fed, not how that was cut.
            self._pass = session.prompts(0, counts, ids, columns=columns)
        else:
            self._prompting = False
            known = ids[:, 0].tolist() if ids.device.type == "cpu" else None
            self._pass = session.step(ids, known=known)
        arguments = {**kwargs, **session.begin(self._pass)}
        arguments.pop("cache_position", None)  # transformers < 5.4 works it out from the cache
        return arguments

    def _why_cut(self, session: Session, counts: list[int]) -> str | None:
        """Why a prompt takes several passes; None where it takes one."""
        if session.room is not None and max(counts) > session.room:
            return f"The prompt has {max(counts)} tokens, more than budget + interval, and"
        if not session.pads and len(set(counts)) > 1:
            return (
                "The batch is padded, and the model has layers with states, which padding would "
                "change. So each row"
            )
        if not session.continues and max(counts) > 1 and any(session.store.tokens_seen):
            return "The model begins anew when it is fed several tokens after others. So this turn"
        return None

    def _run_rows(
        self, session: Session, ids: Int[Tensor, "B T"], counts: list[int]
    ) -> tuple[Int[Tensor, "B 1"], list[int]]:
        """Feed each row alone, all but its last token; these are the pass that is left.

        A row without tokens in this pass has padding there.
        """
        for row, count in enumerate(counts):
            tokens = ids[row : row + 1, ids.shape[1] - count :]
            for [part] in session.passes([count]):
                ends = part.stop == count
                piece = tokens[:, part.start : part.stop - ends]
                pieces = [piece]
                if session.store.tokens_seen[row] and piece.shape[1] > 1 and not session.continues:
                    warn_of_single_tokens(session.model)
                    pieces = list(piece.split(1, dim=1))
                for number, own in enumerate(pieces, start=1):
                    if own.shape[1]:
                        last = number == len(pieces) and not ends
                        self._run(session, own, [own.shape[1]], first=row, events=last)
        return ids[:, -1:], [min(1, count) for count in counts]

    def _run(
        self,
        session: Session,
        ids: Int[Tensor, "B T"],
        counts: list[int],
        *,
        first: int = 0,
        events: bool = True,
    ) -> None:
        """One forward pass of our own, before the one the caller asked for."""
        self._nested = True
        try:
            with session.run(session.prompts(first, counts, ids, columns=0)) as arguments:
                self._model(**arguments, logits_to_keep=1)
        finally:
            self._nested = False
        if events:
            self._events(session, session.sequences[first : first + len(counts)])

    def _after(self, module: torch.nn.Module, args: Any, kwargs: Any, output: Any) -> None:
        """A forward hook of the model, called after an error too: run the events that are due."""
        if self._nested or self._thread != threading.get_ident():
            return
        pass_, self._pass = self._pass, None
        try:
            if output is None or pass_ is None:  # it failed
                if self._session is not None:
                    self._session.cache.abandon()
                return
            self._end(pass_, output)
        finally:
            self._thread = 0
            self._passing.release()

    def _end(self, pass_: Pass, output: Any) -> None:
        session = self._last
        self._passed = time.perf_counter()
        session.end(pass_)
        self._raise(session.sequences)  # before anything is made of these logits
        logits = getattr(output, "logits", None)
        if logits is not None:
            self._finite.append(can_choose(logits[:, -1]))
            if logits.device.type == "cpu" or len(self._finite) == _UNSEEN:
                self._check_logits()
        if isinstance(pass_.forward, PromptForward):
            session.forget_padding()
            self._events(session, session.sequences[: len(pass_.ids)])
            return
        self._decoded.append(pass_.ids)
        self._stepped = True

    def _catch_up(self, session: Session) -> None:
        """Run the events that are due since the last decode step.

        They come before the next pass and not after the step, because a step may be the last one.
        Then no event follows, as in the Engine.
        """
        stepped, self._stepped = self._stepped, False
        if stepped and (due := session.due()):
            self._read()
            self._events(session, due)

    def _read(self) -> None:
        """Read what was fed since the last time: for the segmenters, and to see which rows ended.

        `generate()` feeds the end-of-sequence token and then padding to a row that waits for
        others. Its entries are bounded all the same, but are no cost of its own. Padding may follow
        another token too: one that `generate()` was told to end at, or the end of a stop string.
        """
        if not self._decoded:
            return
        fed = torch.cat(self._decoded, dim=1).tolist()
        self._decoded.clear()
        for number, (row, tokens) in enumerate(zip(self._last.sequences, fed, strict=False)):
            row.fed(tokens)
            alive = [i for i, token in enumerate(tokens) if token not in self._fillers]
            ended = number in self._done
            if ended and alive:  # it was no end: generate() was told of other ends
                del self._done[number]
            start = alive[-1] + 1 if alive else 0
            end = next((i for i in range(start, len(tokens)) if tokens[i] in self._eos), None)
            if end is None and start < len(tokens):
                end = start - 1  # before the padding; -1 is the last token of what was read before
            if end is not None and number not in self._done:
                before = self._so_far.get(number) if end < 1 else None  # before an event since
                self._done[number] = (
                    before[end] if before else self._stats(row, steps_ago=len(tokens) - end)
                )
            self._so_far[number] = self._stats(row), self._stats(row, steps_ago=1)

    def _events(self, session: Session, rows: Sequence[Row]) -> None:
        session.events(rows)
        self._raise(rows)

    def _raise(self, rows: Sequence[Row]) -> None:
        for row in rows:
            if row.error is not None:
                raise row.error

    def _check_logits(self) -> None:
        """Raise for a sequence whose logits left no token to choose."""
        if not self._finite:
            return
        finite = torch.stack(self._finite).all(dim=0).tolist()
        self._finite.clear()
        for number, holds in enumerate(finite):
            if not holds:
                raise self._last.why_no_token(self._last.sequences[number])

    def _start(self, prompts: Sequence[int]) -> None:
        """A new generation begins: a session of its own."""
        for index, prompt_tokens in enumerate(prompts):
            name, shared = f"Prompt {index}", self._policy.budget
            check_prompt(self._least, prompt_tokens, name, shared=shared)
        self._check_logits()
        self._close()
        self._decoded.clear()
        self._done.clear()
        self._so_far.clear()
        self._started = time.perf_counter()
        self._trace = EventLog() if self._tracing else None
        self._session = Session(
            self._model,
            self._policy,
            sequences=len(prompts),
            text=self._text,
            thinking=self._thinking,
            observers=None if self._trace is None else Observers([self._trace]),
        )
        for prompt_tokens in prompts:
            row = self._session.start(Row(prompt_tokens=prompt_tokens))
            self._session.join(row)  # generate() feeds all at once
        self._hooks.enter_context(self._session.hooked())
        self._prompting, self._stepped = True, False

    def _close(self) -> None:
        self._hooks.close()


def _eos(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase | None) -> frozenset[int]:
    """The tokens at which `generate()` ends a row, unless it is told others."""
    configured = _as_ids(getattr(model.generation_config, "eos_token_id", None))
    return configured or _as_ids(None if tokenizer is None else tokenizer.eos_token_id)


def _as_ids(value: Any) -> frozenset[int]:
    """A token id, several or none, as transformers' configs have them."""
    if value is None:
        return frozenset()
    return frozenset([value] if isinstance(value, int) else value)


def _chunks(
    ids: Int[Tensor, "B T"], counts: list[int], passes: list[list[range]]
) -> list[tuple[Int[Tensor, "B t"], list[int]]]:
    """The passes' tokens, each left-padded, with the number of tokens per row."""
    padding = [ids.shape[1] - count for count in counts]
    chunks = []
    for ranges in passes:
        columns = max(len(part) for part in ranges)
        chunk = ids.new_zeros(len(counts), columns)
        for row, part in enumerate(ranges):
            start = padding[row] + part.start
            chunk[row, columns - len(part) :] = ids[row, start : start + len(part)]
        chunks.append((chunk, [len(part) for part in ranges]))
    return chunks
