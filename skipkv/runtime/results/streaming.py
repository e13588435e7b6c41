"""Streaming text: pieces that join to exactly the text of the completion."""

import re
from collections.abc import Iterator, Sequence
from typing import Any

import attrs

from skipkv.runtime.results.completion import Completion
from skipkv.runtime.text.token_text import byte_tokens

# Some tokenizers clean up spaces (" ." becomes "."). Text before a space that follows two letters
# or digits is then final: none of the clean-up patterns reaches across it.
_SETTLED = re.compile(r".*\w\w(?=\s)", re.DOTALL)


@attrs.frozen(kw_only=True)
class Piece:
    """Text that a sequence has gained.

    The pieces of a sequence join to the text of its completion, which comes with the last one.

    Args:
        index: which prompt, from 0.
        sample: which sample of it, from 0.
        text: the added text; may be empty in the last piece.
        completion: the completion, in the last piece of a sequence; None before.
    """

    index: int
    sample: int
    text: str
    completion: Completion | None = None


def _ends_within(names: Sequence[str], beginning: str) -> bool:
    """Whether some of these names end so, and are longer."""
    return any(name.endswith(beginning) and name != beginning for name in names if beginning)


class TextStream:
    """Turns the tokens of one sequence into text that no later token can change.

    It holds text back while later tokens may change it: an incomplete UTF-8 character, a run of
    single-byte tokens (tokenizers with byte fallback read such a run as one), a word if the
    tokenizer cleans up spaces, and text that may be the beginning of a stop string.

    Args:
        tokenizer: a transformers tokenizer.
        stop: strings at which the text ends.
        context: tokens kept as context when older ones are dropped: enough for the newest text to
            be as after all of them.

    Example:
        >>> from skipkv.testing import toy_tokenizer
        >>> tokenizer = toy_tokenizer()
        >>> stream = TextStream(tokenizer, stop=["two three"])
        >>> [stream.feed(tokenizer(t)["input_ids"]) for t in ("one ", "two", " plus")]
        ['one ', '', 'two plus']
    """

    def __init__(self, tokenizer: Any, *, stop: Sequence[str] = (), context: int = 16) -> None:
        self._tokenizer = tokenizer
        self._stop = tuple(stop)
        self._context = context
        self._cleans = bool(getattr(tokenizer, "clean_up_tokenization_spaces", False))
        self._bytes = byte_tokens(tokenizer)
        added = tokenizer.added_tokens_decoder
        self._silent = {*tokenizer.all_special_ids, *(i for i in added if added[i].special)}
        self._begun = self._stop_texts()
        self._recent: list[int] = []  # tokens whose text may change, and some context before them
        self._certain = 0  # characters of the recent tokens' text that cannot change
        self._text = ""  # of the recent tokens
        self._held = ""  # text that cannot change, but may belong to a stop string or follow one
        self._sent = 0

    def feed(self, tokens: Sequence[int]) -> str:
        """Take the next tokens; return the text that cannot change and was not returned before."""
        self._recent += [token for token in tokens if token not in self._silent]
        text = self._decode(self._recent)
        self._text = text
        certain = self._settled(text)
        self._held += certain[self._certain :]
        self._certain = max(self._certain, len(certain))
        if len(self._recent) > 4 * self._context and self._recent[-1] not in self._bytes:
            self._forget(len(text))
        ready = self._before_stop()
        piece, self._held = self._held[:ready], self._held[ready:]
        self._sent += len(piece)
        return piece

    @property
    def reached(self) -> tuple[int, str]:
        """Where the text stands: how many characters are certain, and the rest, which may change.

        What is held back for a stop string is certain.
        """
        return self._sent + len(self._held), self._text[self._certain :]

    def texts(self, tokens: Sequence[int], whole: Completion | None) -> Iterator[str]:
        """The texts that become certain with each of the next tokens; empty ones are left out.

        Args:
            tokens: the next tokens.
            whole: the completion that they end, if they end one. At a stop string these tokens may
                reach beyond the end of its text: `rest` gives what is left of it.
        """
        if whole is None or whole.stop_reason != "stop_string":
            yield from filter(None, (self.feed([token]) for token in tokens))

    def rest(self, text: str) -> str:
        """The part of the whole text that `feed` has not returned."""
        return text[self._sent :]

    def _decode(self, tokens: list[int]) -> str:
        return str(self._tokenizer.decode(tokens, skip_special_tokens=True))

    def _settled(self, text: str) -> str:
        """The part of the recent tokens' text that no later token can change."""
        last = len(self._recent)
        while last and self._recent[last - 1] in self._bytes:
            last -= 1
        if last < len(self._recent):
            text = self._decode(self._recent[:last])
        if self._cleans:
            settled = _SETTLED.match(text)
            text = settled.group() if settled else ""
        return text.rstrip("\ufffd")

    def _forget(self, length: int) -> None:
        """Drop older tokens, if text that cannot change remains as context before the rest.

        A run of byte tokens is not divided: a part of it may be no text.
        """
        start = len(self._recent) - self._context
        while start and self._recent[start - 1] in self._bytes:
            start -= 1
        recent = self._recent[start:]
        certain = self._certain - (length - len(self._decode(recent)))
        if certain > 0:
            self._text = self._text[self._certain - certain :]
            self._recent, self._certain = recent, certain

    def _stop_texts(self) -> dict[str, int]:
        """Stop strings without special tokens -> how many characters may be a beginning of one.

        Special tokens are part of a stop string, but the text does not show them. If a stop string
        lacks only its special tokens, all of its text may have come already. It may begin inside
        one, as ">\\n" does.
        """
        names = [self._tokenizer.convert_ids_to_tokens(i) for i in self._silent]
        texts: dict[str, int] = {}
        for string in self._stop:
            inside = [at for at in range(len(string)) if _ends_within(names, string[:at])]
            for at in [0, *inside]:
                text = string[at:]
                for name in names:
                    text = text.replace(name, "")
                texts[text] = max(texts.get(text, 0), len(text) - (text == string))
        return texts

    def _before_stop(self) -> int:
        """How many held characters come before text that is, or may become, a stop string."""
        ends = [len(self._held)]
        for string in self._stop:
            if (at := self._held.find(string)) >= 0:
                ends.append(at)
        for text, most in self._begun.items():
            longest = min(most, len(self._held))
            part = next((n for n in range(longest, 0, -1) if self._held.endswith(text[:n])), 0)
            ends.append(len(self._held) - part)
        return min(ends)
