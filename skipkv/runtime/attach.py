"""The same cache and the same events under anybody's `model.generate()`."""

import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from jaxtyping import Bool, Int
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase
from transformers.cache_utils import Cache

from skipkv.errors import ConfigError, InputError
from skipkv.policy import Policy
from skipkv.runtime.completion import Stats, stats_of
from skipkv.runtime.forward import Forward, PromptForward
from skipkv.runtime.session import EventRecord, Session
from skipkv.runtime.steering import check_steerer
from skipkv.runtime.support import check_family, check_policy, check_prompt, full_attention_layers
from skipkv.runtime.text import TokenText


@contextmanager
def attach(
    model: PreTrainedModel,
    policy: Policy,
    *,
    tokenizer: PreTrainedTokenizerBase | None = None,
    trace: bool = False,
) -> Iterator["Attachment"]:
    """Make `model.generate()` decode under a policy while the context lasts.

    Batches, left padding and sampling work as always; padding takes no room in the cache. Prompts
    longer than the budget go in in chunks. On exit, after an error too, the model is as it was.
    Layers with sliding-window attention keep transformers' own cache for them.

    Args:
        model: a causal language model of a supported family.
        policy: what to keep. Its scheduler rests: `generate()` decodes the batch it is given.
        tokenizer: needed by policies that read sentences or steer.
        trace: record every compression event, with the positions kept.

    Yields:
        An `Attachment`, which says what the last generation cost.

    Raises:
        UnsupportedModelError: an architecture the runtime does not decode.
        ConfigError: the policy is none, or needs a tokenizer, or a layer the model does not have.
        InputError: raised by `generate()` for inputs that cannot be decoded so: right padding, a
            cache of one's own, `use_cache=False`.
        PartError: raised by `generate()` when a part of the policy breaks its protocol.

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
    check_family(model)
    check_steerer(
        policy.steerer, layers=model.config.num_hidden_layers, width=model.config.hidden_size
    )
    if tokenizer is None and (policy.needs.sentences or policy.steerer.layer is not None):
        raise ConfigError(
            "This policy reads text (sentences or steering). Give the tokenizer: "
            "skipkv.attach(model, policy, tokenizer=tokenizer)."
        )
    attachment = Attachment(model, policy, tokenizer, trace=trace)
    handles = [
        model.register_forward_pre_hook(attachment._before, with_kwargs=True),
        model.register_forward_hook(attachment._after, with_kwargs=True),
    ]
    try:
        yield attachment
    finally:
        for handle in handles:
            handle.remove()
        attachment._close()


class Attachment:
    """What `attach` put on a model, and what its last generation cost, one number per sequence.

    Args:
        model: the model it is on.
        policy: what is kept.
        tokenizer: where the policy reads text.
        trace: whether events are recorded.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        policy: Policy,
        tokenizer: PreTrainedTokenizerBase | None,
        *,
        trace: bool,
    ) -> None:
        self._model = model
        self._policy = policy
        self._text = None if tokenizer is None else TokenText(tokenizer)
        self._trace = trace
        self._hybrid = len(full_attention_layers(model.config)) < model.config.num_hidden_layers
        self._session: Session | None = None
        self._hooks = ExitStack()
        self._pass: tuple[Forward, Int[Tensor, "B T"]] | None = None
        self._decoded: list[Int[Tensor, "B 1"]] = []  # tokens the segmenter has not seen yet
        self._nested = False
        self._started = self._ended = 0.0

    @property
    def stats(self) -> list[Stats]:
        """What each sequence of the last generation cost, as a `Completion` of the Engine has it.

        As for the Engine, the last token decoded counts, though it is never fed.
        """
        session = self._last
        return [
            stats_of(
                session,
                number,
                new_tokens=session.store.tokens_seen[number] - running.prompt_tokens + 1,
                seconds=self._ended - self._started,
            )
            for number, running in enumerate(session.running)
        ]

    @property
    def events(self) -> list[int]:
        """Compression events that dropped something."""
        return [r.events for r in self._last.running]

    @property
    def evicted(self) -> list[int]:
        """Entries dropped, summed over layers and KV heads."""
        return [r.evicted for r in self._last.running]

    @property
    def peak_entries(self) -> list[int]:
        """Most entries any head of any layer held at once."""
        return [self._last.peak_entries(n) for n in range(len(self._last.running))]

    @property
    def peak_kv_bytes(self) -> int:
        """Bytes allocated for keys and values at most, for the whole batch, as measured."""
        return self._last.store.peak_bytes

    @property
    def trace(self) -> list[tuple[EventRecord, ...]]:
        """Every sequence's compression events, where `attach(trace=True)` asked for them."""
        return [tuple(r.trace or ()) for r in self._last.running]

    @property
    def _last(self) -> Session:
        if self._session is None:
            raise InputError("Nothing has been generated under this attachment yet.")
        return self._session

    def _before(self, module: torch.nn.Module, args: Any, kwargs: Any) -> Any:
        """A forward pre-hook of the model: exchange the cache, bring in what precedes this pass."""
        if self._nested:
            return None
        if args:
            kwargs = {"input_ids": args[0], **kwargs}
            if len(args) > 1:
                raise InputError("Under skipkv.attach, call the model with keyword arguments.")
        ids, real = _tokens(kwargs)
        cache = kwargs.get("past_key_values")
        starting = self._session is None or cache is not self._session.cache
        decoding = not starting and ids.shape[1] == 1  # then a look at the mask would only wait
        counts = [1] * len(ids) if decoding else _counts(real)
        if starting:
            self._start(cache, counts)
        session = self._last
        return (), self._arguments(session, ids, counts, kwargs, prompt=starting)

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
        prompt = prompt or columns > 1
        if prompt and session.room is not None and max(counts) > session.room:
            if self._hybrid:
                raise InputError(
                    f"The prompt has {max(counts)} tokens, more than budget + interval, and the "
                    "model has sliding-window layers, whose own caches cannot take it in chunks. "
                    "Raise the budget or the interval."
                )
            if not kwargs.get("logits_to_keep"):
                raise InputError(
                    f"The prompt has {max(counts)} tokens, more than budget + interval, and is fed "
                    "in chunks; logits for all of it cannot be given. Use model.generate(), or "
                    "pass logits_to_keep=1."
                )
            *earlier, (ids, counts) = _chunks(ids, counts, session.passes(counts))
            for chunk, sizes in earlier:
                self._run(session, chunk, sizes)
        if prompt:
            forward: Forward = session.begin_prompt(0, counts, ids)
        else:
            known = ids[:, 0].tolist() if ids.device.type == "cpu" else None
            forward = session.begin_step(0, len(ids), ids, known=known)
        self._pass = (forward, ids)
        arguments = {**kwargs, **session.arguments(forward), "input_ids": ids}
        arguments.pop("cache_position", None)  # transformers < 5.4 works it out from the cache
        if self._hybrid:  # the stock mask of the sliding layers must know the padding
            arguments["attention_mask"] = kwargs.get("attention_mask")
        # What generate() counts on is what it fed, not how that was cut.
        session.cache.columns += columns - ids.shape[1]
        return arguments

    def _run(self, session: Session, ids: Int[Tensor, "B T"], counts: list[int]) -> None:
        """One forward pass of our own, before the one the caller asked for."""
        forward = session.begin_prompt(0, counts, ids)
        self._nested = True
        try:
            self._model(input_ids=ids, logits_to_keep=1, **session.arguments(forward))
        finally:
            self._nested = False
        session.end(forward, ids)
        session.cache.columns -= ids.shape[1]
        self._events(session, range(len(counts)))

    def _after(self, module: torch.nn.Module, args: Any, kwargs: Any, output: Any) -> None:
        """A forward hook of the model: run the events that are due."""
        if self._nested or self._pass is None:
            return
        session = self._last
        self._ended = time.perf_counter()
        (forward, ids), self._pass = self._pass, None
        session.end(forward, ids)
        if isinstance(forward, PromptForward):
            self._events(session, range(len(forward.counts)))
            return
        if self._policy.needs.sentences:
            self._decoded.append(ids)
        if due := session.due():
            if self._decoded:
                for number, tokens in enumerate(torch.cat(self._decoded, dim=1).tolist()):
                    session.decoded(number, tokens)
                self._decoded.clear()
            self._events(session, due)

    def _events(self, session: Session, numbers: Sequence[int]) -> None:
        for error in session.events(numbers).values():
            raise error

    def _start(self, cache: Any, prompts: Sequence[int]) -> None:
        """A new generation begins: a session of its own."""
        if isinstance(cache, Cache) and cache.get_seq_length() > 0:
            raise InputError(
                "Under skipkv.attach a generation must start with an empty cache: do not pass "
                "past_key_values that already hold something."
            )
        for index, prompt_tokens in enumerate(prompts):
            check_prompt(self._policy.budget, prompt_tokens, index)
        self._close()
        self._decoded.clear()
        self._started = time.perf_counter()
        self._session = Session(
            self._model, self._policy, sequences=len(prompts), text=self._text, trace=self._trace
        )
        for prompt_tokens in prompts:
            self._session.join(self._session.start(prompt_tokens))  # generate() feeds all at once
        self._hooks.enter_context(self._session.hooked())

    def _close(self) -> None:
        self._hooks.close()


def _tokens(kwargs: dict[str, Any]) -> tuple[Int[Tensor, "B T"], Bool[Tensor, "B T"]]:
    """The tokens of this pass and which of them are not padding."""
    ids = kwargs.get("input_ids")
    if ids is None:
        raise InputError("Under skipkv.attach, generation needs input_ids (not inputs_embeds).")
    if kwargs.get("use_cache") is False:
        raise InputError("use_cache=False leaves no cache to bound. Remove it under skipkv.attach.")
    if kwargs.get("labels") is not None:
        raise InputError("skipkv.attach is for generation; compute a loss outside of it.")
    mask = kwargs.get("attention_mask")
    if mask is None:
        return ids, torch.ones_like(ids, dtype=torch.bool)
    if not isinstance(mask, Tensor) or mask.ndim != 2:
        raise InputError("Under skipkv.attach, attention_mask must be [batch, tokens] or None.")
    return ids, mask[:, -ids.shape[1] :].bool()


def _counts(real: Bool[Tensor, "B T"]) -> list[int]:
    """Tokens per row; they must lie at the end."""
    if bool((real[:, :-1] & ~real[:, 1:]).any()):
        raise InputError(
            "The batch is padded on the right (or inside). Decoding needs left padding: set "
            "tokenizer.padding_side = 'left'."
        )
    counts: list[int] = real.sum(dim=1).tolist()
    if 0 in counts:
        raise InputError(f"Prompt {counts.index(0)} is empty: its attention mask is all zero.")
    return counts


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
