"""The engine: prompts in, completions out, decoded under a policy."""

import sys
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import chain, islice
from pathlib import Path
from typing import Any, Literal

import attrs
import torch
from jaxtyping import Int
from torch import Tensor
from tqdm.auto import tqdm
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from skipkv.errors import ConfigError, InputError
from skipkv.models import load
from skipkv.policy import Policy
from skipkv.runtime.compiled import Compile, compiled_layers
from skipkv.runtime.completion import THINK, Completion, Stats, split_thinking
from skipkv.runtime.loop import DecodeLoop
from skipkv.runtime.prefill import PREFILL_CHUNK
from skipkv.runtime.prompts import (
    Content,
    Prompt,
    check_template_options,
    each,
    stop_strings,
    token_ids,
    whole_numbers,
)
from skipkv.runtime.sampling import Sampling
from skipkv.runtime.seam import causal_lm, check_free, check_version
from skipkv.runtime.sequence import Order
from skipkv.runtime.sequence import Sequence as Decoded
from skipkv.runtime.session import Session
from skipkv.runtime.steering import check_steerer, warn_if_idle
from skipkv.runtime.stopping import before, shown
from skipkv.runtime.streaming import Piece, TextStream
from skipkv.runtime.support import (
    check_all_full,
    check_family,
    check_given,
    check_policy,
    check_prompt,
)
from skipkv.runtime.text import TokenText
from skipkv.runtime.timing import Timings

MAX_NEW_TOKENS = 8192
"""Tokens decoded at most where neither the caller nor the model's generation config says."""

Prompts = Iterable[Content | Prompt] | Mapping[str, Any] | Int[Tensor, "B T"]
"""Prompts as they are given: a list, another iterable, or what a tokenizer answers."""


@attrs.frozen(kw_only=True)
class _Failed:
    """A prompt that cannot be decoded, in the place of its request."""

    place: int
    completion: Completion


@attrs.frozen(kw_only=True)
class _Settings:
    """What a call says of all its prompts."""

    max_new_tokens: int | None
    sampling: Sampling
    stop: tuple[str, ...]
    seeds: Sequence[int] | None
    chat_template_kwargs: Mapping[str, Any] | None
    invalid: str


class Engine:
    """Decodes prompts with a stock transformers model under a policy.

    The model is not changed: while the engine decodes, attention and cache are exchanged through
    transformers' own registries and hooks, and put back before a result is handed out.

    Args:
        model: a causal language model of a supported family, or a wrapper around one (a PEFT
            adapter, say). It is decoded in evaluation mode, and is as it was between results.
        tokenizer: its tokenizer.
        policy: what to keep in the cache, whom to decode together.
        batch_size: sequences decoded side by side.
        eos_token_ids: tokens that end a sequence; by default those of the model's generation config
            and the tokenizer. An empty list decodes every sequence to its full length.
        prefill_chunk: tokens of each newcomer's prompt fed between two decode steps while others
            are decoding. Small chunks let running sequences wait less, large ones bring newcomers
            in sooner; what is kept and decoded does not depend on it.
        graphs: on CUDA, under a budget in tokens, replay decode steps as one recorded graph; where
            that fails, a warning says why and steps are launched one by one.
        compile: compile the decoder layers for decode steps, which takes seconds at the first of
            them; "auto" does so on CUDA. The name of a backend of `torch.compile` does so with that
            backend. Cache, attention and prompts stay as they are. Compiled layers round less
            often, so in half precision tokens may part where two logits nearly tie. Where compiling
            fails, a warning says why and layers stay as they are.

    Raises:
        UnsupportedModelError: an architecture or a kind of layer the engine does not decode.
        InputError: the model or the tokenizer is none, or no EOS token is known.
        ConfigError: the policy is none, `batch_size` or `prefill_chunk` is below 1, or a steerer
            does not fit the model.

    Example:
        >>> from skipkv import Engine, presets
        >>> from skipkv.testing import toy_model, toy_tokenizer
        >>> engine = Engine(toy_model(), toy_tokenizer(), presets.rkv(budget=64, interval=16))
        >>> [completion] = engine.generate(["one plus two"], max_new_tokens=200)
        >>> completion.stats.peak_entries
        80
    """

    def __init__(
        self,
        model: torch.nn.Module,
        tokenizer: PreTrainedTokenizerBase,
        policy: Policy,
        *,
        batch_size: int = 8,
        eos_token_ids: int | Sequence[int] | None = None,
        prefill_chunk: int = PREFILL_CHUNK,
        graphs: bool = True,
        compile: Compile = "auto",
    ) -> None:
        check_given(model, tokenizer, policy, user="Engine")
        model = causal_lm(model, user="Engine")
        check_version()
        check_family(model)
        check_all_full(model.config)
        check_steerer(
            policy.steerer, layers=model.config.num_hidden_layers, width=model.config.hidden_size
        )
        if not isinstance(batch_size, int) or batch_size < 1:
            raise ConfigError(
                f"Engine(batch_size={batch_size!r}) must be a whole number, 1 or more."
            )
        if not isinstance(prefill_chunk, int) or prefill_chunk < 1:
            raise ConfigError(
                f"Engine(prefill_chunk={prefill_chunk!r}) must be a whole number, 1 or more: it is "
                "how many tokens of a newcomer's prompt are fed between two decode steps of the "
                "others."
            )
        self.model: PreTrainedModel = model
        self.tokenizer = tokenizer
        self.policy = policy
        self.batch_size = batch_size
        self.prefill_chunk = prefill_chunk
        self._graphs = graphs
        self._compiled = compiled_layers(model, compile)
        given = None if eos_token_ids is None else whole_numbers("eos_token_ids", eos_token_ids)
        self._eos = _eos(model, tokenizer) if given is None else frozenset(given)
        self._text = TokenText(tokenizer)
        warn_if_idle(policy.steerer, self._text, vocabulary=model.config.vocab_size)

    @classmethod
    def from_pretrained(
        cls,
        name_or_path: str | Path,
        *,
        policy: Policy,
        dtype: str | torch.dtype = "auto",
        device: str | torch.device | None = None,
        batch_size: int = 8,
        eos_token_ids: int | Sequence[int] | None = None,
        prefill_chunk: int = PREFILL_CHUNK,
        graphs: bool = True,
        compile: Compile = "auto",
        trust_remote_code: bool = False,
    ) -> "Engine":
        """An engine for a model on disk or on the hub.

        Args:
            name_or_path: a model folder, a folder with one GGUF file, a GGUF file, or a hub id.
            policy: as for the constructor.
            dtype: of the weights; "auto" takes the checkpoint's (float32 for GGUF).
            device: where to; by default a GPU if there is one.
            batch_size: as for the constructor.
            eos_token_ids: as for the constructor.
            prefill_chunk: as for the constructor.
            graphs: as for the constructor.
            compile: as for the constructor.
            trust_remote_code: run Python code that comes with the model; without it none runs.

        Raises:
            InputError: there is no such model, or it cannot be loaded.
            ConfigError: as for the constructor; a policy is checked before anything is loaded.
        """
        check_policy(policy, user="Engine.from_pretrained")
        model, tokenizer = load(
            name_or_path, dtype=dtype, device=device, trust_remote_code=trust_remote_code
        )
        return cls(
            model,
            tokenizer,
            policy,
            batch_size=batch_size,
            eos_token_ids=eos_token_ids,
            prefill_chunk=prefill_chunk,
            graphs=graphs,
            compile=compile,
        )

    def __repr__(self) -> str:
        config = self.model.config
        name = getattr(config, "name_or_path", "") or type(self.model).__name__
        return (
            f"<Engine: {name} ({config.num_hidden_layers} layers, {self.model.dtype} on "
            f"{self.model.device}), batch_size={self.batch_size}, {self.policy!r}>"
        )

    def generate(
        self,
        prompts: Prompts,
        *,
        max_new_tokens: int | None = None,
        sampling: Sampling | Mapping[str, Any] | None = None,
        stop: str | Sequence[str] = (),
        seeds: Sequence[int] | None = None,
        chat_template_kwargs: Mapping[str, Any] | None = None,
        invalid: Literal["raise", "fail"] = "raise",
        ordered: bool = True,
        progress: bool | None = None,
        trace: bool = False,
        timings: Timings | None = None,
    ) -> Iterator[Completion]:
        """Decode prompts.

        The prompts of a list are all checked here, before any decoding. Those of a generator are
        taken one by one, each when there is room to decode it, and checked then.

        Args:
            prompts: texts, lists of token ids, lists of chat messages (`role`, `content`), which
                go through the tokenizer's chat template, or `Prompt`s, which have settings of
                their own. What a tokenizer answers, padded or not, stands for the prompts in it.
            max_new_tokens: tokens to decode per sequence at most; by default what the model's
                generation config says, or 8192, and no more than the model has positions for.
            sampling: by default what the model's generation config asks for, which is often
                greedy: see `Sampling.from_model`. `Sampling()` is greedy. A dict of its arguments
                will do.
            stop: a string, or several, at which a sequence ends; its text ends before it. Strings
                are found in the decoded text, special tokens shown.
            seeds: a seed for each prompt; by default `sampling.seed` and on, counting up.
            chat_template_kwargs: further arguments for the chat template, such as
                `{"enable_thinking": False}`.
            invalid: what comes of a prompt that cannot be decoded: "raise" raises its
                `InputError`; with "fail" it gets a completion with that error, and the others are
                decoded.
            ordered: completions in the order of the prompts, each as soon as it and those before it
                are done; otherwise as they finish.
            progress: show a progress bar on stderr; by default if that is a terminal.
            trace: record every compression event, with the positions kept.
            timings: gets the seconds of every prefill, step and event.

        Returns:
            An iterator of `Completion`, `sampling.n` per prompt. A sequence on which a part of the
            policy breaks its protocol, or whose logits are not finite, ends with
            `stop_reason="error"`; the others go on. Where the scheduler breaks, the prompts that
            still wait end so.

        Raises:
            InputError: a prompt that is empty, of a wrong kind, or too long for the model or the
                budget.
            ConfigError: a sampling that cannot be.
        """
        settings = self._settings(
            max_new_tokens, sampling, stop, seeds, chat_template_kwargs, invalid
        )
        return self._decode(self._jobs(prompts, settings), ordered, progress, trace, timings)

    def stream(
        self,
        prompts: Prompts,
        *,
        max_new_tokens: int | None = None,
        sampling: Sampling | Mapping[str, Any] | None = None,
        stop: str | Sequence[str] = (),
        seeds: Sequence[int] | None = None,
        chat_template_kwargs: Mapping[str, Any] | None = None,
        invalid: Literal["raise", "fail"] = "raise",
        trace: bool = False,
    ) -> Iterator[Piece]:
        """Decode prompts and hand out their text as it is decoded.

        Pieces of all sequences that are decoded side by side come mixed. Those of one sequence
        join to the text of its completion, which the last of them carries: what is streamed is
        never taken back. So what may still change is held back until it is certain: an incomplete
        character, or what may be the beginning of a stop string.

        A piece is the text of a token. On an accelerator tokens are read 16 at a time, since every
        look makes it wait, so 16 pieces come at once. Streaming changes no token.

        Args:
            prompts: as for `generate`, and so are the others.
            max_new_tokens: tokens to decode per sequence at most.
            sampling: by default that of the model's generation config.
            stop: strings at which a sequence ends; its text ends before them.
            seeds: a seed for each prompt.
            chat_template_kwargs: further arguments for the chat template.
            invalid: "raise" or "fail".
            trace: record every compression event.

        Returns:
            An iterator of `Piece`. A sequence on which a part of the policy breaks its protocol
            ends with a completion that has `stop_reason="error"`; the others go on. Decoding stops
            when the iteration does.

        Raises:
            InputError: as for `generate`.
            ConfigError: as for `generate`.

        Example:
            >>> from skipkv import Engine, presets
            >>> from skipkv.testing import toy_model, toy_tokenizer
            >>> engine = Engine(toy_model(), toy_tokenizer(), presets.rkv(budget=64, interval=16))
            >>> pieces = list(engine.stream(["one plus two"], max_new_tokens=9))
            >>> "".join(piece.text for piece in pieces) == pieces[-1].completion.text
            True
        """
        settings = self._settings(
            max_new_tokens, sampling, stop, seeds, chat_template_kwargs, invalid
        )
        return self._stream(self._jobs(prompts, settings), trace)

    def encode(
        self,
        prompt: Content,
        *,
        index: int = 0,
        chat_template_kwargs: Mapping[str, Any] | None = None,
    ) -> list[int]:
        """The token ids of a prompt, as `generate` decodes it.

        Args:
            prompt: a text, token ids, or a list of chat messages.
            index: its number, for the messages of errors.
            chat_template_kwargs: further arguments for the chat template.

        Raises:
            InputError: it is empty or of another kind, or its chat template fails.
        """
        return token_ids(
            prompt,
            self.tokenizer,
            name=f"Prompt {index}",
            chat_template_kwargs=chat_template_kwargs,
        )

    def _settings(
        self,
        max_new_tokens: int | None,
        sampling: Sampling | Mapping[str, Any] | None,
        stop: str | Sequence[str],
        seeds: Sequence[int] | None,
        chat_template_kwargs: Mapping[str, Any] | None,
        invalid: str,
    ) -> _Settings:
        """What a call says of all its prompts, checked."""
        check_free(self.model)
        if max_new_tokens is not None and (
            not isinstance(max_new_tokens, int) or max_new_tokens < 1
        ):
            raise InputError(
                f"max_new_tokens must be a whole number of at least 1, got {max_new_tokens!r}."
            )
        if invalid not in ("raise", "fail"):
            raise InputError(f"invalid must be 'raise' or 'fail', got {invalid!r}.")
        check_template_options(chat_template_kwargs or {})
        return _Settings(
            max_new_tokens=max_new_tokens,
            sampling=Sampling.from_model(self.model) if sampling is None else Sampling.of(sampling),
            stop=stop_strings(stop),
            seeds=None if seeds is None else whole_numbers("seeds", seeds),
            chat_template_kwargs=chat_template_kwargs,
            invalid=invalid,
        )

    def _jobs(self, prompts: Prompts, settings: _Settings) -> Iterable[Order | _Failed]:
        """What is to be decoded: a list, checked, or an iterator that checks as it goes."""
        given = each(prompts, self.tokenizer)
        seeds = settings.seeds
        if seeds is not None and isinstance(given, list) and len(seeds) != len(given):
            raise InputError(
                f"seeds must hold a number for each of the {len(given)} prompts, got {seeds}."
            )
        jobs = self._each_job(given, settings)
        return list(jobs) if isinstance(given, list) else jobs

    def _each_job(self, prompts: Iterable[Any], settings: _Settings) -> Iterator[Order | _Failed]:
        place = 0
        for index, given in enumerate(prompts):
            prompt = given if isinstance(given, Prompt) else Prompt(given)
            sampling = prompt.sampling or settings.sampling
            ids: list[int] = []
            try:
                ids = token_ids(
                    prompt.content,
                    self.tokenizer,
                    name=f"Prompt {index}",
                    chat_template_kwargs=settings.chat_template_kwargs,
                )
                most = self._checked(index, ids, prompt.max_new_tokens or settings.max_new_tokens)
                seed = self._seed(index, prompt, settings)
            except InputError as error:
                if settings.invalid == "raise":
                    raise
                for sample in range(sampling.n):
                    yield _Failed(place=place, completion=_refused(index, sample, ids, error))
                    place += 1
                continue
            for sample in range(sampling.n):
                yield Order(
                    index=place,
                    prompt=ids,
                    max_new_tokens=most,
                    seed=seed,
                    sample=sample,
                    prompt_index=index,
                    sampling=sampling,
                    stop=settings.stop if prompt.stop is None else prompt.stop,
                )
                place += 1

    def _seed(self, index: int, prompt: Prompt, settings: _Settings) -> int:
        if prompt.seed is not None:
            return prompt.seed
        if settings.seeds is None:
            return (prompt.sampling or settings.sampling).seed + index
        if index >= len(settings.seeds):
            raise InputError(
                f"seeds holds {len(settings.seeds)} numbers, and none for prompt {index}."
            )
        return settings.seeds[index]

    def _checked(self, index: int, ids: list[int], max_new_tokens: int | None) -> int:
        """Tokens to decode after a prompt at most, once it is seen to be one the model can take."""
        config = self.model.config
        wrong = [token for token in ids if not 0 <= token < config.vocab_size]
        if wrong:
            raise InputError(
                f"Prompt {index} holds token id {wrong[0]}; the vocabulary has {config.vocab_size}."
            )
        limit = getattr(config, "max_position_embeddings", None)
        if max_new_tokens is None:
            configured = getattr(self.model.generation_config, "max_new_tokens", None)
            max_new_tokens = configured or MAX_NEW_TOKENS
            if limit is not None:
                max_new_tokens = max(min(max_new_tokens, limit - len(ids)), 1)
        if limit is not None and len(ids) + max_new_tokens > limit:
            raise InputError(
                f"Prompt {index} has {len(ids)} tokens; with max_new_tokens={max_new_tokens} that "
                f"exceeds the model's {limit} positions. Evicted entries still count: positions "
                "never change. Shorten the prompt or decode fewer tokens."
            )
        check_prompt(self.policy.budget, len(ids), index)
        return max_new_tokens

    def _decode(
        self,
        jobs: Iterable[Order | _Failed],
        ordered: bool,
        progress: bool | None,
        trace: bool,
        timings: Timings | None,
    ) -> Iterator[Completion]:
        show = sys.stderr.isatty() if progress is None else progress
        total = len(jobs) if isinstance(jobs, list) else None
        early: dict[int, Completion] = {}  # done before one that comes first
        following = 0
        with tqdm(total=total, unit="seq", disable=not show or total == 0, file=sys.stderr) as bar:
            for news in self._run(jobs, trace=trace, timings=timings):
                bar.update()
                if isinstance(news, _Failed):
                    place, completion = news.place, news.completion
                else:
                    place, completion = news.request.index, self._completion(news)
                if not ordered:
                    yield completion
                    continue
                early[place] = completion
                while following in early:
                    yield early.pop(following)
                    following += 1

    def _stream(self, jobs: Iterable[Order | _Failed], trace: bool) -> Iterator[Piece]:
        streams: dict[int, TextStream] = {}
        for news in self._run(jobs, trace=trace, streaming=True):
            if isinstance(news, _Failed):
                whole = news.completion
                yield Piece(index=whole.index, sample=whole.sample, text="", completion=whole)
                continue
            order = news.request
            place, index, sample = order.index, order.prompt_index, order.sample
            if place not in streams:
                streams[place] = TextStream(self.tokenizer, stop=order.stop)
            for token in news.fresh() if news.stop_string is None else ():
                if text := streams[place].feed([token]):
                    yield Piece(index=index, sample=sample, text=text)
            if news.reason is not None:
                whole = self._completion(news)
                rest = streams.pop(place).rest(whole.text)
                yield Piece(index=index, sample=sample, text=rest, completion=whole)

    def _run(
        self,
        jobs: Iterable[Order | _Failed],
        *,
        trace: bool,
        timings: Timings | None = None,
        streaming: bool = False,
    ) -> Iterator[Decoded | _Failed]:
        """All that comes of these jobs, the failed ones as soon as they are met."""
        failed: deque[_Failed] = deque()

        def orders() -> Iterator[Order]:
            for job in jobs:
                if isinstance(job, Order):
                    yield job
                else:
                    failed.append(job)

        coming = orders()
        first = list(islice(coming, None if isinstance(jobs, list) else self.batch_size))
        while failed:
            yield failed.popleft()
        if not first:
            return
        known = isinstance(jobs, list)
        with torch.inference_mode():
            session = Session(
                self.model,
                self.policy,
                sequences=min(self.batch_size, len(first)),
                text=self._text,
                trace=trace,
                longest=max(o.prompt_tokens + o.max_new_tokens for o in first) if known else None,
                compiled=self._compiled,
            )
        loop = DecodeLoop(
            session,
            eos=self._eos,
            text=self._text,
            prefill_chunk=self.prefill_chunk,
            graphs=self._graphs,
            streaming=streaming,
        )
        for news in loop.run(first if known else chain(first, coming), timings):
            while failed:
                yield failed.popleft()
            yield news
        while failed:
            yield failed.popleft()

    def _completion(self, finished: Decoded) -> Completion:
        assert finished.reason is not None
        order, tokens = finished.request, finished.tokens
        if finished.stop_string is None:
            text = str(self.tokenizer.decode(tokens, skip_special_tokens=True))
        else:
            text = before(self.tokenizer, tokens, finished.stop_string)
        opened = shown(self.tokenizer, order.prompt[-8:]).rstrip().endswith(THINK)
        thinking, answer = split_thinking(self.tokenizer, tokens, text, opened=opened)
        return Completion(
            index=order.prompt_index,
            sample=order.sample,
            prompt_tokens=order.prompt_tokens,
            tokens=tuple(tokens),
            text=text,
            thinking=thinking,
            answer=answer,
            stop_reason=finished.reason,
            error=finished.error if finished.reason == "error" else None,
            stats=finished.stats,
            trace=None if finished.trace is None else tuple(finished.trace),
        )


def _refused(index: int, sample: int, ids: Sequence[int], error: InputError) -> Completion:
    """What comes of a prompt that cannot be decoded."""
    return Completion(
        index=index,
        sample=sample,
        prompt_tokens=len(ids),
        tokens=(),
        text="",
        stop_reason="error",
        error=error,
        stats=Stats.nothing(),
    )


def _eos(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> frozenset[int]:
    """The tokens that end a sequence."""
    configured = getattr(model.generation_config, "eos_token_id", None)
    ids = configured if isinstance(configured, list) else [configured]
    known = frozenset(i for i in [*ids, tokenizer.eos_token_id] if i is not None)
    if not known:
        raise InputError(
            "Neither the tokenizer nor the model's generation config names an EOS token. Set "
            "tokenizer.eos_token, or pass eos_token_ids=[] to decode to max_new_tokens."
        )
    return known
