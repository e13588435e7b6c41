"""The engine: prompts in, completions out, decoded under a policy."""

import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import cast

import torch
from tqdm.auto import tqdm
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from skipkv._types import Request
from skipkv.errors import ConfigError, InputError
from skipkv.models import load
from skipkv.policy import Policy
from skipkv.runtime.completion import Completion
from skipkv.runtime.loop import DecodeLoop, Finished
from skipkv.runtime.prefill import PREFILL_CHUNK
from skipkv.runtime.sampling import Sampling
from skipkv.runtime.session import Session
from skipkv.runtime.steering import check_steerer
from skipkv.runtime.streaming import Piece, TextStream
from skipkv.runtime.support import check_all_full, check_family, check_prompt
from skipkv.runtime.text import TokenText
from skipkv.runtime.timing import Timings

Prompt = str | Sequence[int] | Sequence[Mapping[str, str]]


class Engine:
    """Decodes prompts with a stock transformers model under a policy.

    The model is not changed: while the engine decodes, attention and cache are exchanged through
    transformers' own registries and hooks, and put back before a result is handed out.

    Args:
        model: a causal language model of a supported family, in evaluation mode.
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

    Raises:
        UnsupportedModelError: an architecture or a kind of layer the engine does not decode.
        InputError: no EOS token is known.
        ConfigError: `batch_size` or `prefill_chunk` below 1, or a steerer that does not fit the
            model.

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
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        policy: Policy,
        *,
        batch_size: int = 8,
        eos_token_ids: Sequence[int] | None = None,
        prefill_chunk: int = PREFILL_CHUNK,
        graphs: bool = True,
    ) -> None:
        check_family(model)
        check_all_full(model.config)
        check_steerer(
            policy.steerer, layers=model.config.num_hidden_layers, width=model.config.hidden_size
        )
        if batch_size < 1:
            raise ConfigError(f"Engine(batch_size={batch_size}) must be at least 1.")
        if prefill_chunk < 1:
            raise ConfigError(
                f"Engine(prefill_chunk={prefill_chunk}) must be at least 1: it is how many tokens "
                "of a newcomer's prompt are fed between two decode steps of the others."
            )
        self.model = model
        model.train(False)
        self.tokenizer = tokenizer
        self.policy = policy
        self.batch_size = batch_size
        self.prefill_chunk = prefill_chunk
        self._graphs = graphs
        self._eos = _eos(model, tokenizer) if eos_token_ids is None else frozenset(eos_token_ids)
        self._text = TokenText(tokenizer)

    @classmethod
    def from_pretrained(
        cls,
        name_or_path: str,
        *,
        policy: Policy,
        batch_size: int = 8,
        dtype: str | torch.dtype = "auto",
        device: str | torch.device | None = None,
        prefill_chunk: int = PREFILL_CHUNK,
        trust_remote_code: bool = False,
    ) -> "Engine":
        """An engine for a model on disk or on the hub.

        Args:
            name_or_path: a model folder, a folder with one GGUF file, a GGUF file, or a hub id.
            policy: as for the constructor.
            batch_size: as for the constructor.
            dtype: of the weights; "auto" takes the checkpoint's (float32 for GGUF).
            device: where to; by default a GPU if there is one.
            prefill_chunk: as for the constructor.
            trust_remote_code: run Python code that comes with the model; without it none runs.
        """
        model, tokenizer = load(
            name_or_path, dtype=dtype, device=device, trust_remote_code=trust_remote_code
        )
        return cls(model, tokenizer, policy, batch_size=batch_size, prefill_chunk=prefill_chunk)

    def generate(
        self,
        prompts: Sequence[Prompt],
        *,
        max_new_tokens: int,
        sampling: Sampling | None = None,
        stop: Sequence[str] = (),
        seeds: Sequence[int] | None = None,
        ordered: bool = True,
        progress: bool | None = None,
        trace: bool = False,
        timings: Timings | None = None,
    ) -> Iterator[Completion]:
        """Decode prompts; every input error is raised here, before any decoding.

        Args:
            prompts: texts, lists of token ids, or lists of chat messages (`role`, `content`), which
                go through the tokenizer's chat template.
            max_new_tokens: tokens to decode per sequence at most.
            sampling: greedy by default.
            seeds: a seed for each prompt; by default `sampling.seed` and on, counting up.
            stop: strings at which a sequence ends; its text ends before them.
            ordered: completions in the order of the prompts, each as soon as it and those before it
                are done; otherwise as they finish.
            progress: show a progress bar on stderr; by default if that is a terminal.
            trace: record every compression event, with the positions kept.
            timings: gets the seconds of every prefill, step and event.

        Returns:
            An iterator of `Completion`, `sampling.n` per prompt. A sequence on which a part of the
            policy breaks its protocol ends with `stop_reason="error"`; the others go on.

        Raises:
            InputError: an empty prompt, or one too long for the model or the budget.
        """
        sampling = sampling or Sampling()
        requests = self._requests(prompts, max_new_tokens, sampling, stop, seeds)
        return self._decode(requests, sampling, tuple(stop), ordered, progress, trace, timings)

    def stream(
        self,
        prompts: Sequence[Prompt],
        *,
        max_new_tokens: int,
        sampling: Sampling | None = None,
        stop: Sequence[str] = (),
        seeds: Sequence[int] | None = None,
        trace: bool = False,
    ) -> Iterator[Piece]:
        """Decode prompts and hand out their text as it is decoded; input errors are raised here.

        Pieces of all sequences that are decoded side by side come mixed. Those of one sequence
        join to the text of its completion, which the last of them carries: what is streamed is
        never taken back. So what may still change is held back until it is certain: an incomplete
        character, or what may be the beginning of a stop string.

        On an accelerator tokens are read 16 at a time, since every look makes it wait, and pieces
        are as long; on a CPU a piece is a token. Streaming changes no token.

        Args:
            prompts: as for `generate`, and so are the others.
            max_new_tokens: tokens to decode per sequence at most.
            sampling: greedy by default.
            stop: strings at which a sequence ends; its text ends before them.
            seeds: a seed for each prompt.
            trace: record every compression event.

        Returns:
            An iterator of `Piece`. A sequence on which a part of the policy breaks its protocol
            ends with a completion that has `stop_reason="error"`; the others go on. One who stops
            iterating stops the decoding.

        Raises:
            InputError: an empty prompt, or one too long for the model or the budget.

        Example:
            >>> from skipkv import Engine, presets
            >>> from skipkv.testing import toy_model, toy_tokenizer
            >>> engine = Engine(toy_model(), toy_tokenizer(), presets.rkv(budget=64, interval=16))
            >>> pieces = list(engine.stream(["one plus two"], max_new_tokens=9))
            >>> "".join(piece.text for piece in pieces) == pieces[-1].completion.text
            True
        """
        sampling = sampling or Sampling()
        requests = self._requests(prompts, max_new_tokens, sampling, stop, seeds)
        return self._stream(requests, sampling, tuple(stop), trace)

    def _requests(
        self,
        prompts: Sequence[Prompt],
        max_new_tokens: int,
        sampling: Sampling,
        stop: Sequence[str],
        seeds: Sequence[int] | None,
    ) -> list[Request]:
        """A request per prompt and sample, checked."""
        if isinstance(prompts, str):
            raise InputError(
                "prompts must be a list of prompts, got one string. Wrap it: [prompt]."
            )
        if max_new_tokens < 1:
            raise InputError(f"max_new_tokens must be at least 1, got {max_new_tokens}.")
        if any(not s for s in stop):
            raise InputError("stop must not hold an empty string: it would end every sequence.")
        encoded = [self.encode(prompt, index=index) for index, prompt in enumerate(prompts)]
        for index, ids in enumerate(encoded):
            self._check(index, ids, max_new_tokens)
        if seeds is None:
            seeds = range(sampling.seed, sampling.seed + len(encoded))
        elif len(seeds) != len(encoded) or min(seeds, default=0) < 0:
            raise InputError(
                f"seeds must hold a number from 0 on for each of the {len(encoded)} prompts, got "
                f"{list(seeds)}."
            )
        return [
            Request(
                index=index * sampling.n + sample,
                prompt=ids,
                max_new_tokens=max_new_tokens,
                seed=seed,
                sample=sample,
            )
            for index, (ids, seed) in enumerate(zip(encoded, seeds, strict=True))
            for sample in range(sampling.n)
        ]

    def _decode(
        self,
        requests: list[Request],
        sampling: Sampling,
        stop: Sequence[str],
        ordered: bool,
        progress: bool | None,
        trace: bool,
        timings: Timings | None,
    ) -> Iterator[Completion]:
        if not requests:
            return
        loop = self._loop(requests, sampling, stop, trace)
        show = sys.stderr.isatty() if progress is None else progress
        early: dict[int, Completion] = {}  # done before one that comes first
        following = 0
        with tqdm(total=len(requests), unit="seq", disable=not show, file=sys.stderr) as bar:
            for finished in loop.run(requests, timings):
                assert isinstance(finished, Finished)  # the loop streams only where asked to
                bar.update()
                completion = self._completion(finished, sampling.n)
                if not ordered:
                    yield completion
                    continue
                early[finished.request.index] = completion
                while following in early:
                    yield early.pop(following)
                    following += 1

    def _stream(
        self, requests: list[Request], sampling: Sampling, stop: Sequence[str], trace: bool
    ) -> Iterator[Piece]:
        if not requests:
            return
        loop = self._loop(requests, sampling, stop, trace, streaming=True)
        streams: dict[int, TextStream] = {}
        for news in loop.run(requests):
            place = news.request.index
            index, sample = place // sampling.n, news.request.sample
            if place not in streams:
                streams[place] = TextStream(self.tokenizer, stop=stop)
            if isinstance(news, Finished):
                whole = self._completion(news, sampling.n)
                rest = streams.pop(place).rest(whole.text)
                yield Piece(index=index, sample=sample, text=rest, completion=whole)
            elif text := streams[place].feed(news.tokens):
                yield Piece(index=index, sample=sample, text=text)

    def _loop(
        self,
        requests: list[Request],
        sampling: Sampling,
        stop: Sequence[str],
        trace: bool,
        streaming: bool = False,
    ) -> DecodeLoop:
        with torch.inference_mode():
            session = Session(
                self.model,
                self.policy,
                sequences=min(self.batch_size, len(requests)),
                text=self._text,
                trace=trace,
            )
        return DecodeLoop(
            session,
            sampling=sampling,
            eos=self._eos,
            stop=stop,
            text=self._text,
            prefill_chunk=self.prefill_chunk,
            graphs=self._graphs,
            streaming=streaming,
        )

    def _completion(self, finished: Finished, samples: int) -> Completion:
        text = str(self.tokenizer.decode(finished.tokens, skip_special_tokens=True))
        if finished.stop_string is not None:
            text = text.partition(finished.stop_string)[0]
        return Completion(
            index=finished.request.index // samples,
            sample=finished.request.sample,
            prompt_tokens=finished.request.prompt_tokens,
            tokens=tuple(finished.tokens),
            text=text,
            stop_reason=finished.reason,
            error=finished.error,
            stats=finished.stats,
            trace=None if finished.trace is None else tuple(finished.trace),
        )

    def encode(self, prompt: Prompt, *, index: int = 0) -> list[int]:
        """The token ids of a prompt, as `generate` decodes it.

        Args:
            prompt: a text, token ids, or a list of chat messages.
            index: its number, for the messages of errors.

        Raises:
            InputError: it is empty, or a chat and the tokenizer has no chat template.
        """
        if not isinstance(prompt, str):
            items = list(prompt)
            if items and isinstance(items[0], Mapping):
                if not getattr(self.tokenizer, "chat_template", None):
                    raise InputError(
                        f"Prompt {index} is a chat, but the tokenizer has no chat template. Give "
                        "the prompt as text."
                    )
                messages = [dict(cast(Mapping[str, str], item)) for item in items]
                text = self.tokenizer.apply_chat_template(
                    messages, tokenize=False, add_generation_prompt=True
                )
                return list(self.tokenizer(text, add_special_tokens=False)["input_ids"])
            return [int(cast(int, token)) for token in items]
        if not prompt.strip():
            raise InputError(f"Prompt {index} is empty.")
        return list(self.tokenizer(prompt)["input_ids"])

    def _check(self, index: int, ids: list[int], max_new_tokens: int) -> None:
        if not ids:
            raise InputError(f"Prompt {index} has no tokens.")
        config = self.model.config
        wrong = [token for token in ids if not 0 <= token < config.vocab_size]
        if wrong:
            raise InputError(
                f"Prompt {index} holds token id {wrong[0]}; the vocabulary has {config.vocab_size}."
            )
        limit = getattr(config, "max_position_embeddings", None)
        if limit is not None and len(ids) + max_new_tokens > limit:
            raise InputError(
                f"Prompt {index} has {len(ids)} tokens; with max_new_tokens={max_new_tokens} that "
                f"exceeds the model's {limit} positions. Evicted entries still count: positions "
                "never change. Shorten the prompt or decode fewer tokens."
            )
        check_prompt(self.policy.budget, len(ids), index)


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
