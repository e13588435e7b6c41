"""Completions of sequences: their text, and which part of it is thinking."""

from collections import abc
from typing import Any

from skipkv.errors import SkipKVError
from skipkv.runtime.completion import Completion, EventRecord, Stats
from skipkv.runtime.observers import EventLog, Observers
from skipkv.runtime.sequence import Sequence
from skipkv.runtime.stopping import before, shown

THINK, END_THINK = "<think>", "</think>"


class Answers:
    """Makes completions, and tells observers of them.

    Args:
        tokenizer: the model's tokenizer.
        observers: told of each.
        trace: the one of them that records events for the completions.
    """

    def __init__(
        self, tokenizer: Any, observers: Observers | None = None, trace: EventLog | None = None
    ) -> None:
        self._tokenizer = tokenizer
        self._observers = observers
        self._trace = trace

    def of(self, news: Sequence | Completion) -> Completion:
        """The completion of a sequence that is done; one that is there already is told of."""
        completion = news
        if isinstance(completion, Sequence):
            events = None if self._trace is None else self._trace.take(news.index, news.sample)
            completion = _completion(completion, self._tokenizer, events)
        if self._observers is not None:
            self._observers.tell("on_completion", completion)
        return completion


def _completion(
    sequence: Sequence, tokenizer: Any, trace: tuple[EventRecord, ...] | None
) -> Completion:
    assert sequence.reason is not None
    order, tokens = sequence.request, sequence.tokens
    if sequence.stop_string is None:
        text = str(tokenizer.decode(tokens, skip_special_tokens=True))
    else:
        text = before(tokenizer, tokens, sequence.stop_string)
    opened = shown(tokenizer, order.prompt[-8:]).rstrip().endswith(THINK)
    thinking, answer = split_thinking(tokenizer, tokens, text, opened=opened)
    return Completion(
        index=order.index,
        sample=order.sample,
        prompt_tokens=order.prompt_tokens,
        tokens=tuple(tokens),
        text=text,
        thinking=thinking,
        answer=answer,
        stop_reason=sequence.reason,
        error=sequence.error if sequence.reason == "error" else None,
        stats=sequence.stats,
        trace=trace,
    )


def refused(index: int, sample: int, prompt_tokens: int, error: SkipKVError) -> Completion:
    """The completion of a prompt that cannot be decoded.

    Args:
        index: number of the prompt.
        sample: which sample of it.
        prompt_tokens: its length, where that is known; else 0.
        error: why it cannot be decoded.
    """
    return Completion(
        index=index,
        sample=sample,
        prompt_tokens=prompt_tokens,
        tokens=(),
        text="",
        stop_reason="error",
        error=error,
        stats=Stats.nothing(),
    )


def split_thinking(
    tokenizer: Any, tokens: abc.Sequence[int], text: str, *, opened: bool
) -> tuple[str | None, str | None]:
    """A completion's thinking and its answer: see `Completion`.

    Args:
        tokenizer: a transformers tokenizer; it may hold the marks as special tokens, which the text
            lacks.
        tokens: what was decoded.
        text: their text.
        opened: whether the prompt ended in `<think>`.
    """
    begin, end = tokenizer.convert_tokens_to_ids([THINK, END_THINK])
    thought, mark, answer = text.rpartition(END_THINK)
    if not mark and end in tokens and end != tokenizer.unk_token_id:  # a special token
        last = len(tokens) - 1 - tokens[::-1].index(end)
        thought = str(tokenizer.decode(tokens[:last], skip_special_tokens=True))[: len(text)]
        mark, answer = END_THINK, text[len(thought) :]
    if not mark:
        known = begin in tokens and begin != tokenizer.unk_token_id
        if not (opened or known or THINK in text):
            return None, text.strip()
        thought = text
    if THINK in thought:
        thought = thought.partition(THINK)[2]
    return thought.strip(), answer.strip() if mark else None
