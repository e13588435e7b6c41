"""The engine: prompts in, completions out, decoded under a policy."""

import sys
import warnings
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import attrs
import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from skipkv._validators import kind_of
from skipkv.errors import ConfigError, InputError, SkipKVWarning
from skipkv.models import load
from skipkv.models.architecture import text_config
from skipkv.policy import Policy
from skipkv.runtime.graph import Record
from skipkv.runtime.loop import DecodeLoop
from skipkv.runtime.parts.steering import check_steerer, warn_if_idle
from skipkv.runtime.requests.answer import Answers
from skipkv.runtime.requests.orders import OrderDesk, Prompts
from skipkv.runtime.requests.prefill import PREFILL_CHUNK
from skipkv.runtime.requests.prefix import Prefix
from skipkv.runtime.requests.prompts import Content, whole_numbers
from skipkv.runtime.requests.sampling import Sampling
from skipkv.runtime.requests.sequence import Order
from skipkv.runtime.requests.sequence import Sequence as Decoded
from skipkv.runtime.results.completion import Completion
from skipkv.runtime.results.observers import EventLog, Observer, Observers
from skipkv.runtime.results.progress import Progress
from skipkv.runtime.results.streaming import Piece, TextStream
from skipkv.runtime.results.timing import Timings
from skipkv.runtime.seam.compiled import Compile, compiled_layers
from skipkv.runtime.seam.lending import check_free, no_gradient
from skipkv.runtime.seam.names import check_version
from skipkv.runtime.seam.wrapped import causal_lm
from skipkv.runtime.server import Server
from skipkv.runtime.session import Session
from skipkv.runtime.support.checks import (
    check_architecture,
    check_given,
    check_layers,
    check_policy,
    least_budget,
)
from skipkv.runtime.support.continuing import continues
from skipkv.runtime.support.fits import check_fits
from skipkv.runtime.support.ranks import check_devices, ranks_of
from skipkv.runtime.support.rotary import check_rotary
from skipkv.runtime.text.thinking import ThinkingMarks, thinking_marks
from skipkv.runtime.text.token_text import TokenText
from skipkv.runtime.trial import check_untested

Orders = list[Order | Completion] | Iterator[Order | Completion]
"""What a call asks for; a completion stands for a prompt that was refused."""


class Engine:
    """Decodes prompts with a stock transformers model under a policy.

    The model is not changed: while the engine decodes, attention and cache are exchanged through
    transformers' own registries and hooks, and put back before a result is handed out.

    Args:
        model: a causal language model of transformers, or a wrapper around one (a PEFT
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
            that fails, a warning says why and steps are launched one by one. A function records
            steps in another way, on any device: it gets one that does a step on fixed tensors, and
            returns one that does the same again. Under tensor parallelism steps are neither
            recorded nor compiled.
        read_every: decode steps between two looks at the tokens. Each look makes an accelerator
            wait, so by default there are 16 there, and 1 on a CPU. With 1 an accelerator streams
            each token at once and decodes none beyond a sequence's end, in slower steps. No token
            depends on it.
        compile: compile the decoder layers for decode steps, which takes seconds at the first of
            them; "auto" does so on CUDA. The name of a backend of `torch.compile` does so with that
            backend. Cache, attention and prompts stay as they are. Compiled layers round less
            often, so in half precision tokens may part where two logits nearly tie. Where compiling
            fails, a warning says why and layers stay as they are.
        thinking: how the model marks its thinking; "auto" finds it in the tokenizer's vocabulary
            and chat template. None means that it does not: a steerer acts wherever it decodes.

    Raises:
        UnsupportedModelError: an architecture or a kind of layer the engine does not decode, layers
            on several devices, or a model of a family that is not tested and that decodes in
            another way through skipkv's cache.
        InputError: the model or the tokenizer is none, or no EOS token is known.
        ConfigError: the policy is none, `batch_size`, `prefill_chunk` or `read_every` is below 1,
            `graphs` is neither a bool nor a function, or a steerer does not fit the model.

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
        graphs: bool | Record = True,
        read_every: int | None = None,
        compile: Compile = "auto",
        thinking: ThinkingMarks | str | None = "auto",
    ) -> None:
        check_given(model, tokenizer, policy, user="Engine")
        model = causal_lm(model, user="Engine")
        check_version()
        found = check_architecture(model)
        check_steerer(policy.steerer, layers=found.layers, width=found.hidden_size)
        check_rotary(policy, model)
        check_fits(policy, model)
        check_devices(model, policy)
        check_layers(policy, model.config)
        least = least_budget(policy, model.config)
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
        if not (callable(graphs) or isinstance(graphs, bool)):
            raise ConfigError(
                f"Engine(graphs={graphs!r}) must be True, False, or a function that records a step."
            )
        if read_every is not None and (not isinstance(read_every, int) or read_every < 1):
            raise ConfigError(
                f"Engine(read_every={read_every!r}) must be a whole number, 1 or more: it is how "
                "many decode steps lie between two looks at the tokens."
            )
        check_untested(model, by="Engine")
        continues(model)  # tried now, while nothing is under way
        self.model: PreTrainedModel = model
        self.tokenizer = tokenizer
        self.policy = policy
        self.batch_size = batch_size
        self.prefill_chunk = prefill_chunk
        alone = (
            ranks_of(model) == 1
        )  # what ranks send to each other is neither recorded nor compiled
        self._graphs = graphs if alone else False
        self._read_every = read_every
        self._compiled = compiled_layers(model, compile) if alone else None
        given = None if eos_token_ids is None else whole_numbers("eos_token_ids", eos_token_ids)
        self._eos = _eos(model, tokenizer) if given is None else frozenset(given)
        self.thinking = thinking_marks(thinking, tokenizer, user="Engine")
        self._text = TokenText(tokenizer)
        self._desk = OrderDesk(model, tokenizer, policy.budget, least)
        vocabulary = text_config(model).vocab_size
        warn_if_idle(policy.steerer, self._text, self.thinking, vocabulary=vocabulary)

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
        graphs: bool | Record = True,
        read_every: int | None = None,
        compile: Compile = "auto",
        thinking: ThinkingMarks | str | None = "auto",
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
            read_every: as for the constructor.
            compile: as for the constructor.
            thinking: as for the constructor.
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
            read_every=read_every,
            compile=compile,
            thinking=thinking,
        )

    def __repr__(self) -> str:
        name = getattr(self.model.config, "name_or_path", "") or type(self.model).__name__
        layers = text_config(self.model).num_hidden_layers
        return (
            f"<Engine: {name} ({layers} layers, {self.model.dtype} on "
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
        prefix: Content | Prefix | None = None,
        invalid: Literal["raise", "fail"] = "raise",
        ordered: bool = True,
        progress: bool | None = None,
        trace: bool = False,
        observers: Sequence[Observer] = (),
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
            prefix: what every prompt begins with: a text, token ids, or the first messages of every
                chat. It is read and compressed once; `Engine.prefix` makes one for several calls.
            invalid: what comes of a prompt that cannot be decoded: "raise" raises its
                `InputError`; with "fail" it gets a completion with that error, and the others are
                decoded.
            ordered: completions in the order of the prompts, each as soon as it and those before it
                are done; otherwise as they finish.
            progress: show a progress bar on stderr; by default if that is a terminal.
            trace: record every compression event, with the positions kept, for
                `Completion.trace`.
            observers: see passes, tokens, events and completions: see `Observer`.
            timings: deprecated; a `Timings` is an observer.

        Returns:
            An iterator of `Completion`, `sampling.n` per prompt. A sequence on which a part of the
            policy breaks its protocol, or whose logits are not finite, ends with
            `stop_reason="error"`; the others go on. Where the scheduler breaks, the prompts that
            still wait end so.

        Raises:
            InputError: a prompt that is empty, of a wrong kind, or too long for the model or the
                budget.
            ConfigError: a sampling that cannot be, or an observer that observes nothing.
            ObserverError: an observer raised an error.
        """
        if timings is not None:
            warnings.warn(
                "Engine.generate(timings=...) is deprecated, and goes with the next release. "
                "Timings are an observer: pass observers=[timings].",
                SkipKVWarning,
                stacklevel=2,
            )
            observers = [*observers, timings]
        settings = self._desk.settings(
            max_new_tokens=max_new_tokens,
            sampling=sampling,
            stop=stop,
            seeds=seeds,
            chat_template_kwargs=chat_template_kwargs,
            prefix=prefix,
            invalid=invalid,
        )
        orders = self._desk.orders(prompts, settings)
        total = len(orders) if isinstance(orders, list) else None
        show = (sys.stderr.isatty() if progress is None else progress) and total != 0
        bar = Progress(total) if show else None
        watch = _Watch.of(observers, trace=trace, progress=bar)
        return self._decode(orders, ordered, watch, bar)

    def stream(
        self,
        prompts: Prompts,
        *,
        max_new_tokens: int | None = None,
        sampling: Sampling | Mapping[str, Any] | None = None,
        stop: str | Sequence[str] = (),
        seeds: Sequence[int] | None = None,
        chat_template_kwargs: Mapping[str, Any] | None = None,
        prefix: Content | Prefix | None = None,
        invalid: Literal["raise", "fail"] = "raise",
        trace: bool = False,
        observers: Sequence[Observer] = (),
    ) -> Iterator[Piece]:
        """Decode prompts and hand out their text as it is decoded.

        Pieces of all sequences that are decoded side by side come mixed. Those of one sequence
        join to the text of its completion, which the last of them carries: what is streamed is
        never taken back. So what may still change is held back until it is certain: an incomplete
        character, or what may be the beginning of a stop string.

        A piece is the text of a token. On an accelerator tokens are read 16 at a time, since every
        look makes it wait, so 16 pieces come at once. `Engine(read_every=...)` says how many.
        Streaming changes no token.

        Args:
            prompts: as for `generate`, and so are the others.
            max_new_tokens: tokens to decode per sequence at most.
            sampling: by default that of the model's generation config.
            stop: strings at which a sequence ends; its text ends before them.
            seeds: a seed for each prompt.
            chat_template_kwargs: further arguments for the chat template.
            prefix: what every prompt begins with.
            invalid: "raise" or "fail".
            trace: record every compression event.
            observers: see passes, tokens, events and completions.

        Returns:
            An iterator of `Piece`. A sequence on which a part of the policy breaks its protocol
            ends with a completion that has `stop_reason="error"`; the others go on. Decoding stops
            when the iteration does.

        Raises:
            InputError: as for `generate`.
            ConfigError: as for `generate`.
            ObserverError: as for `generate`.

        Example:
            >>> from skipkv import Engine, presets
            >>> from skipkv.testing import toy_model, toy_tokenizer
            >>> engine = Engine(toy_model(), toy_tokenizer(), presets.rkv(budget=64, interval=16))
            >>> pieces = list(engine.stream(["one plus two"], max_new_tokens=9))
            >>> "".join(piece.text for piece in pieces) == pieces[-1].completion.text
            True
        """
        settings = self._desk.settings(
            max_new_tokens=max_new_tokens,
            sampling=sampling,
            stop=stop,
            seeds=seeds,
            chat_template_kwargs=chat_template_kwargs,
            prefix=prefix,
            invalid=invalid,
        )
        watch = _Watch.of(observers, trace=trace)
        return self._stream(self._desk.orders(prompts, settings), watch)

    def serve(
        self, *, queue: int = 64, trace: bool = False, observers: Sequence[Observer] = ()
    ) -> Server:
        """A server for requests that come and go while others are decoded.

        `batch_size` of them are decoded side by side, by the loop of `generate`, in a thread of the
        server. `submit` gives a handle for each, which iterates over its text and has its
        completion. Other calls with the same model, in other threads, take turns with it.

        Args:
            queue: requests that may wait for a lane; at more, `submit` waits or refuses.
            trace: record every compression event.
            observers: see passes, tokens, events and completions, in the server's thread.

        Returns:
            A context manager. At the end of its block all requests are decoded to their end; if an
            exception ends the block, they are cancelled.

        Raises:
            ConfigError: `queue` is below 1, or an observer observes nothing.
            InputError: a policy is attached to the model.

        Example:
            >>> from skipkv import Engine, presets
            >>> from skipkv.testing import toy_model, toy_tokenizer
            >>> engine = Engine(toy_model(), toy_tokenizer(), presets.rkv(budget=64, interval=16))
            >>> with engine.serve() as server:
            ...     handle = server.submit("one plus two", max_new_tokens=9)
            ...     text = "".join(handle)
            >>> handle.result().text == text
            True
        """
        if not isinstance(queue, int) or queue < 1:
            raise ConfigError(
                f"Engine.serve(queue={queue!r}) must be a whole number, 1 or more: it is how many "
                "requests may wait for a lane."
            )
        check_free(self.model)
        watch = _Watch.of(observers, trace=trace)
        return Server(
            self._desk,
            self.tokenizer,
            lambda: self._loop(self.batch_size, observers=watch.observers, streaming=True),
            self._answers(watch),
            queue=queue,
        )

    def prefix(
        self, content: Content, *, chat_template_kwargs: Mapping[str, Any] | None = None
    ) -> Prefix:
        """The beginning of many prompts, for several calls of `generate` and requests to servers.

        It is read when it is first used. What the policy keeps of it is copied to every sequence
        that begins with it, and held as long as the prefix is.

        Args:
            content: a text, token ids, or the first messages of every chat.
            chat_template_kwargs: further arguments for the chat template.

        Raises:
            InputError: it is empty or of another kind, or its chat template fails.

        Example:
            >>> from skipkv import Engine, presets
            >>> from skipkv.testing import toy_model, toy_tokenizer
            >>> engine = Engine(toy_model(), toy_tokenizer(), presets.rkv(budget=64, interval=16))
            >>> context = engine.prefix("one plus two is three. " * 20)
            >>> questions = ["one plus two", "two plus one"]
            >>> done = list(engine.generate(questions, prefix=context, max_new_tokens=9))
            >>> len(context.ids), [completion.prompt_tokens for completion in done]
            (220, [225, 225])
        """
        return self._desk.prefix(content, chat_template_kwargs)

    def encode(
        self,
        prompt: Content,
        *,
        index: int = 0,
        chat_template_kwargs: Mapping[str, Any] | None = None,
        prefix: Prefix | None = None,
    ) -> list[int]:
        """The token ids of a prompt, as `generate` decodes it.

        Args:
            prompt: a text, token ids, or a list of chat messages.
            index: its number, for the messages of errors.
            chat_template_kwargs: further arguments for the chat template.
            prefix: what it begins with.

        Raises:
            InputError: it is empty or of another kind, or its chat template fails.
        """
        return self._desk.encode(
            prompt,
            name=f"Prompt {index}",
            chat_template_kwargs=chat_template_kwargs,
            prefix=prefix,
        )

    def _decode(
        self, orders: Orders, ordered: bool, watch: "_Watch", bar: Progress | None
    ) -> Iterator[Completion]:
        asked: deque[tuple[int, int]] = deque()  # prompts and samples, in the order they came
        done: dict[tuple[int, int], Completion] = {}
        answers = self._answers(watch)
        try:
            for news in self._run(orders, asked, watch.observers):
                completion = answers.of(news)
                if not ordered:
                    yield completion
                    continue
                done[completion.index, completion.sample] = completion
                while asked and asked[0] in done:
                    yield done.pop(asked.popleft())
        finally:
            if bar is not None:
                bar.close()

    def _stream(self, orders: Orders, watch: "_Watch") -> Iterator[Piece]:
        streams: dict[Order, TextStream] = {}
        answers = self._answers(watch)
        for news in self._run(orders, deque(maxlen=0), watch.observers, streaming=True):
            if isinstance(news, Completion):
                whole = answers.of(news)
                yield Piece(index=whole.index, sample=whole.sample, text="", completion=whole)
                continue
            order = news.request
            index, sample = order.index, order.sample
            if order not in streams:
                streams[order] = TextStream(self.tokenizer, stop=order.stop)
            done = None if news.reason is None else answers.of(news)
            for text in streams[order].texts(news.fresh(), done):
                yield Piece(index=index, sample=sample, text=text)
            if done is not None:
                rest = streams.pop(order).rest(done.text)
                yield Piece(index=index, sample=sample, text=rest, completion=done)

    def _run(
        self,
        orders: Orders,
        asked: deque[tuple[int, int]],
        observers: Observers | None,
        *,
        streaming: bool = False,
    ) -> Iterator[Decoded | Completion]:
        """All that comes of these orders, what is refused as soon as it is met.

        Args:
            orders: those of a list all wait from the beginning; of an iterator, one is taken for
                each lane that is free.
            asked: gets index and sample of every order when it is taken.
            observers: told of the decode.
            streaming: sequences come out whenever they have grown.
        """
        known, coming = isinstance(orders, list), iter(orders)
        loop: DecodeLoop | None = None
        while True:
            room = self.batch_size if loop is None else loop.room
            taken: list[Order] = []
            while (known or len(taken) < room) and (order := next(coming, None)) is not None:
                asked.append((order.index, order.sample))
                if isinstance(order, Completion):
                    yield order
                else:
                    taken.append(order)
            if loop is None and taken:
                loop = self._loop(
                    min(self.batch_size, len(taken)),
                    longest=max(o.prompt_tokens + o.max_new_tokens for o in taken)
                    if known
                    else None,
                    observers=observers,
                    streaming=streaming,
                )
            if loop is None:
                return
            loop.add(taken)
            if not loop.busy:
                return
            yield from loop.advance()

    def _loop(
        self,
        sequences: int,
        *,
        longest: int | None = None,
        observers: Observers | None,
        streaming: bool,
    ) -> DecodeLoop:
        """A loop with room for some sequences; see `Session` for the arguments."""
        with no_gradient(self.model):
            session = Session(
                self.model,
                self.policy,
                sequences=sequences,
                text=self._text,
                thinking=self.thinking,
                observers=observers,
                longest=longest,
                compiled=self._compiled,
            )
        return DecodeLoop(
            session,
            eos=self._eos,
            text=self._text,
            prefill_chunk=self.prefill_chunk,
            graphs=self._graphs,
            read_every=self._read_every,
            streaming=streaming,
        )

    def _answers(self, watch: "_Watch") -> Answers:
        return Answers(self.tokenizer, self.thinking, watch.observers, watch.trace)


@attrs.frozen
class _Watch:
    """The observers of a call, and the one of them that records the trace of its completions."""

    observers: Observers | None
    trace: EventLog | None

    @classmethod
    def of(
        cls, observers: Iterable[Observer], *, trace: bool, progress: Progress | None = None
    ) -> "_Watch":
        if not isinstance(observers, Iterable):
            raise ConfigError(f"observers must be a list of them, got {kind_of(observers)}.")
        recorder = EventLog() if trace else None
        ours = [observer for observer in (recorder, progress) if observer is not None]
        every = [*observers, *ours]
        return cls(Observers(every) if every else None, recorder)


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
