"""Stop strings: found in the text as it is decoded, whatever way it is cut into tokens."""

from collections.abc import Sequence
from typing import Any

from skipkv.runtime.text import byte_tokens

# Tokens decoded together before older ones are let go.
_TOKENS = 64
# Characters at either end of a text cut out of a longer one that may differ there: a space that a
# tokenizer strips, an incomplete character, a space cleaned up.
_UNCERTAIN = 8


class StopFinder:
    """Looks for stop strings in one sequence, a token at a time.

    A string is found at the first token after which the decoded text holds it, special tokens
    shown. Only the newest tokens are decoded, enough of them for the text to be that of the whole.

    Args:
        tokenizer: a transformers tokenizer.
        stop: the strings; none is empty.

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
        self._from = 0  # characters of their text in which no match can begin any more
        self._limit = _TOKENS

    def feed(self, token: int) -> str | None:
        """The stop string this token completes; of several the one that begins first."""
        self._recent.append(token)
        text = shown(self._tokenizer, self._recent)
        found = {at: s for s in self._stop if (at := text.find(s, self._from)) >= 0}
        if found:
            return found[min(found)]
        if len(self._recent) > self._limit and token not in self._bytes:
            self._forget(len(text.rstrip("\ufffd")))
        return None

    def _forget(self, length: int) -> None:
        """Let the older half of the tokens go; of bytes that are read as one, all or none."""
        start = len(self._recent) // 2
        while start and self._recent[start - 1] in self._bytes:
            start -= 1
        recent = self._recent[start:]
        text = shown(self._tokenizer, recent)
        begins = len(text.rstrip("\ufffd")) - self._longest - _UNCERTAIN
        if start and begins >= _UNCERTAIN:
            self._recent, self._from = recent, begins
        else:  # too little text for so long a string, or one run of bytes
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
    count = len(tokens)  # of the tokens that lie before the string altogether
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
    """The text of tokens, special ones too."""
    return str(tokenizer.decode(tokens, skip_special_tokens=False))
