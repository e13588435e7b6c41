"""Stop strings: found in the decoded text, however the text is split into tokens."""

from collections.abc import Sequence
from typing import Any

from skipkv.runtime.text.token_text import byte_tokens

# Tokens decoded together before older ones are dropped.
_TOKENS = 64
# The text of some tokens alone may differ at its ends from their text inside a longer one, by this
# many characters: a stripped space, an incomplete character, a space cleaned up.
_UNCERTAIN = 8


class StopFinder:
    """Looks for stop strings in one sequence, a token at a time.

    A string is found at the first token after which the decoded text, with special tokens, holds
    it. Only the newest tokens are decoded: enough for their text to be as in the whole.

    Args:
        tokenizer: a transformers tokenizer.
        stop: the strings, each with at least one character.

    Example:
        >>> from skipkv.testing import toy_tokenizer
        >>> tokenizer = toy_tokenizer()
        >>> finder = StopFinder(tokenizer, ["o th"])
        >>> [finder.feed(token) for token in tokenizer("two three")["input_ids"]]
        [None, None, 'o th']
    """

    def __init__(self, tokenizer: Any, stop: Sequence[str]) -> None:
        self._tokenizer = tokenizer
        self._stop = tuple(stop)
        self._longest = max(map(len, self._stop))
        self._bytes = byte_tokens(tokenizer)
        self._recent: list[int] = []
        self._from = 0  # characters of their text in which a match can no longer begin
        self._limit = _TOKENS

    def feed(self, token: int) -> str | None:
        """Take a token; return the stop string it completes: of several, the first to begin."""
        self._recent.append(token)
        text = shown(self._tokenizer, self._recent)
        found = {at: s for s in self._stop if (at := text.find(s, self._from)) >= 0}
        if found:
            return found[min(found)]
        if len(self._recent) > self._limit and token not in self._bytes:
            self._forget(len(text.rstrip("\ufffd")))
        return None

    def _forget(self, length: int) -> None:
        """Drop the older half of the tokens, but do not split a run of byte tokens."""
        start = len(self._recent) // 2
        while start and self._recent[start - 1] in self._bytes:
            start -= 1
        recent = self._recent[start:]
        text = shown(self._tokenizer, recent)
        begins = len(text.rstrip("\ufffd")) - self._longest - _UNCERTAIN
        if start and begins >= _UNCERTAIN:
            self._recent, self._from = recent, begins
        else:  # the text is too short for the longest stop string, or one run of bytes
            self._limit *= 2


def before(tokenizer: Any, tokens: Sequence[int], stop: str) -> str:
    """The text before a stop string that these tokens complete, without special tokens.

    Args:
        tokenizer: a transformers tokenizer.
        tokens: all tokens of the sequence; the last one completes the string.
        stop: the string.
    """
    whole = shown(tokenizer, tokens)
    at = whole.index(stop)
    count = len(tokens)  # number of tokens that lie entirely before the string
    while count and not (
        len(head := shown(tokenizer, tokens[:count])) <= at and whole.startswith(head)
    ):
        count -= 1
    head = shown(tokenizer, tokens[:count])
    text = str(tokenizer.decode(tokens[:count], skip_special_tokens=True))
    cut = [tokens[count]]
    if str(tokenizer.decode(cut, skip_special_tokens=True)) == shown(tokenizer, cut):
        text += whole[len(head) : at]  # the string begins inside a token
    return text


def shown(tokenizer: Any, tokens: Sequence[int]) -> str:
    """The text of tokens, with special tokens."""
    return str(tokenizer.decode(tokens, skip_special_tokens=False))
