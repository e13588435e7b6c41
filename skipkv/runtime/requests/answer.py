"""Completions of sequences."""

from typing import Any

from skipkv.errors import SkipKVError
from skipkv.runtime.requests.sequence import Sequence
from skipkv.runtime.results.completion import Completion, EventRecord, Stats
from skipkv.runtime.results.observers import EventLog, Observers
from skipkv.runtime.text.stopping import before
from skipkv.runtime.text.thinking import TAGS, MarkedText, ThinkingMarks


class Answers:
    """Makes completions, and tells observers of them.

    Args:
        tokenizer: the model's tokenizer.
        thinking: how the model marks its thinking.
        observers: told of each.
        trace: the one of them that records events for the completions.
    """

    def __init__(
        self,
        tokenizer: Any,
        thinking: ThinkingMarks | None = None,
        observers: Observers | None = None,
        trace: EventLog | None = None,
    ) -> None:
        self._tokenizer = tokenizer
        self._marked = MarkedText(tokenizer, thinking or TAGS)
        self._observers = observers
        self._trace = trace

    def of(self, news: Sequence | Completion) -> Completion:
        """The completion of a sequence that is done; one that is there already is told of."""
        completion = news
        if isinstance(completion, Sequence):
            events = None if self._trace is None else self._trace.take(news.index, news.sample)
            completion = _completion(completion, self._tokenizer, self._marked, events)
        if self._observers is not None:
            self._observers.tell("on_completion", completion)
        return completion


def _completion(
    sequence: Sequence,
    tokenizer: Any,
    marked: MarkedText,
    trace: tuple[EventRecord, ...] | None,
) -> Completion:
    assert sequence.reason is not None
    order, tokens = sequence.request, sequence.tokens
    if sequence.stop_string is None:
        text = str(tokenizer.decode(tokens, skip_special_tokens=True))
    else:
        text = before(tokenizer, tokens, sequence.stop_string)
    thinking, answer = marked.split(order.prompt, tokens, text)
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
