"""Turns what a user asks for into orders for the loop, and refuses what cannot be decoded."""

import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import attrs
from jaxtyping import Int
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from skipkv.errors import InputError
from skipkv.models.architecture import text_config
from skipkv.policy import Budget
from skipkv.runtime.requests.answer import refused
from skipkv.runtime.requests.prefix import Prefix
from skipkv.runtime.requests.prompts import (
    Content,
    Prompt,
    check_template_options,
    each,
    stop_strings,
    token_ids,
    whole_numbers,
)
from skipkv.runtime.requests.sampling import Sampling
from skipkv.runtime.requests.sequence import Order
from skipkv.runtime.results.completion import Completion
from skipkv.runtime.seam.lending import check_free
from skipkv.runtime.support.checks import check_prompt

MAX_NEW_TOKENS = 8192
"""Tokens decoded at most where neither the caller nor the model's generation config says."""

Prompts = Iterable[Content | Prompt] | Mapping[str, Any] | Int[Tensor, "B T"]
"""Prompts as they are given: a list, another iterable, or what a tokenizer answers."""


@attrs.frozen(kw_only=True)
class Settings:
    """What a call says of all its prompts, checked; see `Engine.generate`."""

    max_new_tokens: int | None
    sampling: Sampling
    stop: tuple[str, ...]
    seeds: Sequence[int] | None
    chat_template_kwargs: Mapping[str, Any] | None
    prefix: Prefix | None
    invalid: str


class OrderDesk:
    """Takes the orders of an engine.

    Args:
        model: the engine's model.
        tokenizer: its tokenizer.
        budget: that of its policy.
        least: that of the layer with the smallest.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        budget: Budget | None,
        least: Budget | None,
    ) -> None:
        self._model = model
        self._tokenizer = tokenizer
        self._budget = budget
        self._least = least
        self._encoding = threading.Lock()  # a tokenizer may be changed while it encodes

    def settings(
        self,
        *,
        max_new_tokens: int | None,
        sampling: Sampling | Mapping[str, Any] | None,
        stop: str | Sequence[str],
        seeds: Sequence[int] | None,
        chat_template_kwargs: Mapping[str, Any] | None,
        prefix: Content | Prefix | None,
        invalid: str = "raise",
    ) -> Settings:
        """What a call says of all its prompts.

        Raises:
            InputError: a setting cannot be, or the model is in use.
            ConfigError: a sampling that cannot be.
        """
        check_free(self._model)
        if max_new_tokens is not None and (
            not isinstance(max_new_tokens, int)
            or isinstance(max_new_tokens, bool)
            or max_new_tokens < 1
        ):
            raise InputError(
                f"max_new_tokens must be a whole number of at least 1, got {max_new_tokens!r}."
            )
        if invalid not in ("raise", "fail"):
            raise InputError(f"invalid must be 'raise' or 'fail', got {invalid!r}.")
        check_template_options(chat_template_kwargs or {})
        if sampling is None:
            sampling = Sampling.from_model(self._model)
        return Settings(
            max_new_tokens=max_new_tokens,
            sampling=Sampling.of(sampling),
            stop=stop_strings(stop),
            seeds=None if seeds is None else whole_numbers("seeds", seeds),
            chat_template_kwargs=chat_template_kwargs,
            prefix=None if prefix is None else self.prefix(prefix, chat_template_kwargs),
            invalid=invalid,
        )

    def orders(
        self, prompts: Prompts, settings: Settings
    ) -> list[Order | Completion] | Iterator[Order | Completion]:
        """What is to be decoded: a list, checked, or an iterator that checks as it goes.

        Args:
            prompts: as `Engine.generate` takes them.
            settings: what the call says of all of them.

        Returns:
            `sampling.n` orders per prompt. A prompt that cannot be decoded has completions in their
            place, where the settings do not say that it raises an error.

        Raises:
            InputError: a prompt of a list cannot be decoded, or these are no prompts.
        """
        given = each(prompts, self._tokenizer)
        seeds = settings.seeds
        if seeds is not None and isinstance(given, list) and len(seeds) != len(given):
            raise InputError(
                f"seeds must hold a number for each of the {len(given)} prompts, got {seeds}."
            )
        orders = self._each(given, settings)
        return list(orders) if isinstance(given, list) else orders

    def orders_of(self, prompt: Content | Prompt, settings: Settings, *, index: int) -> list[Order]:
        """The orders of one prompt, `sampling.n`.

        Args:
            prompt: with or without settings of its own.
            settings: what is not said of it alone.
            index: its number.

        Raises:
            InputError: it cannot be decoded.
        """
        return [o for o in self._each([prompt], settings, index) if isinstance(o, Order)]

    def prefix(
        self, content: Content | Prefix, chat_template_kwargs: Mapping[str, Any] | None
    ) -> Prefix:
        """A prefix for the prompts of this engine; one of its own stays as it is.

        Raises:
            InputError: it is empty, of another kind, or of another engine.
        """
        if isinstance(content, Prefix):
            content.check_owner(self)
            return content
        check_template_options(chat_template_kwargs or {})
        with self._encoding:
            return Prefix.of(
                content, self._tokenizer, options=chat_template_kwargs or {}, owner=self
            )

    def encode(
        self,
        content: Content,
        *,
        name: str,
        chat_template_kwargs: Mapping[str, Any] | None,
        prefix: Prefix | None = None,
    ) -> list[int]:
        """The token ids of a prompt: see `Engine.encode`."""
        with self._encoding:
            if prefix is not None:
                return prefix.followed_by(
                    content, self._tokenizer, name=name, options=chat_template_kwargs or {}
                )
            return token_ids(
                content,
                self._tokenizer,
                name=name,
                chat_template_kwargs=chat_template_kwargs,
            )

    def _each(
        self, prompts: Iterable[Any], settings: Settings, first: int = 0
    ) -> Iterator[Order | Completion]:
        for number, given in enumerate(prompts):
            prompt = given if isinstance(given, Prompt) else Prompt(given)
            sampling = prompt.sampling or settings.sampling
            ids: Sequence[int] = ()
            try:
                ids = self.encode(
                    prompt.content,
                    name=f"Prompt {number}",
                    chat_template_kwargs=settings.chat_template_kwargs,
                    prefix=settings.prefix,
                )
                most = self._most(number, ids, prompt.max_new_tokens or settings.max_new_tokens)
                seed = _seed(number, prompt, settings)
                ids = tuple(ids)  # one for all samples
            except InputError as error:
                if settings.invalid == "raise":
                    raise
                for sample in range(sampling.n):
                    yield refused(first + number, sample, len(ids), error)
                continue
            for sample in range(sampling.n):
                yield Order(
                    index=first + number,
                    prompt=ids,
                    max_new_tokens=most,
                    seed=seed,
                    sample=sample,
                    sampling=sampling,
                    stop=settings.stop if prompt.stop is None else prompt.stop,
                    prefix=settings.prefix,
                )

    def _most(self, number: int, ids: Sequence[int], max_new_tokens: int | None) -> int:
        """Tokens to decode after a prompt at most, once it is seen to be one the model can take."""
        config = text_config(self._model)
        wrong = [token for token in ids if not 0 <= token < config.vocab_size]
        if wrong:
            raise InputError(
                f"Prompt {number} holds token id {wrong[0]}; the vocabulary has "
                f"{config.vocab_size}."
            )
        limit = getattr(config, "max_position_embeddings", None)
        if max_new_tokens is None:
            configured = getattr(self._model.generation_config, "max_new_tokens", None)
            max_new_tokens = configured or MAX_NEW_TOKENS
            if limit is not None:
                max_new_tokens = max(min(max_new_tokens, limit - len(ids)), 1)
        if limit is not None and len(ids) + max_new_tokens > limit:
            raise InputError(
                f"Prompt {number} has {len(ids)} tokens; with max_new_tokens={max_new_tokens} that "
                f"exceeds the model's {limit} positions. Evicted entries still count: positions "
                "never change. Shorten the prompt or decode fewer tokens."
            )
        check_prompt(self._least, len(ids), f"Prompt {number}", shared=self._budget)
        return max_new_tokens


def _seed(number: int, prompt: Prompt, settings: Settings) -> int:
    if prompt.seed is not None:
        return prompt.seed
    if settings.seeds is None:
        return (prompt.sampling or settings.sampling).seed + number
    if number >= len(settings.seeds):
        raise InputError(
            f"seeds holds {len(settings.seeds)} numbers, and none for prompt {number}."
        )
    return settings.seeds[number]
