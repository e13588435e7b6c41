"""One sequence of a request: its text in pieces, as its handle gets tokens."""

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Sequence
from contextlib import suppress
from typing import Any

from skipkv.runtime import Completion, Handle, ThinkingMarks
from skipkv.runtime.results.streaming import TextStream
from skipkv.runtime.text.thinking import TAGS, MarkedText, Part, ThinkingSplit, shared_length


class Choice:
    """Reads the handle of one sequence.

    Args:
        number: among those of its request.
        handle: of the sequence.
        tokenizer: the model's tokenizer.
        thinking: how the model marks its thinking.
        prompt: its token ids; they say whether thinking has begun.
        seed: of its random numbers.
        stop: the strings at which it ends.
        chat: whether thinking and answer are told apart.
    """

    def __init__(
        self,
        number: int,
        handle: Handle,
        tokenizer: Any,
        *,
        thinking: ThinkingMarks | None,
        prompt: Sequence[int],
        seed: int,
        stop: Sequence[str],
        chat: bool,
    ) -> None:
        self.number = number
        self.seed = seed
        self.handle = handle
        self.completion: Completion | None = None
        self._read = 0
        self._stream = TextStream(tokenizer, stop=stop)
        self._marked = MarkedText(tokenizer, thinking or TAGS)
        self._signs = self._marked.signs if chat else {}
        # Signs, with the text before them: its certain characters, and those that may change.
        self._due: deque[tuple[int, str, str]] = deque()
        self._text = ""  # what has come and is not divided yet
        self._divided = 0  # characters
        self._split = (
            ThinkingSplit(self._marked.marks, begun=self._marked.begun(prompt)) if chat else None
        )

    def pieces(self, *, only_whole: bool = False) -> list[tuple[Part, str]]:
        """What has come since the last call; the completion comes with the last of it.

        Args:
            only_whole: read nothing before the sequence is done.
        """
        fresh, whole = self.handle.since(self._read)
        if whole is None and only_whole:
            return []
        self._read += len(fresh)
        if whole is not None:  # the rest of the text is known: only marks are looked for
            marked = [place for place, token in enumerate(fresh) if token in self._signs]
            fresh = fresh[: marked[-1] + 1] if marked else []
        found: list[tuple[Part, str]] = []
        for token in fresh:
            found += self._parts(self._stream.feed([token]))
            if token in self._signs:
                self._due.append((*self._stream.reached, self._signs[token]))
                found += self._parts("")
        if whole is not None:
            found += self._parts(self._stream.rest(whole.text), last=True)
            found += [] if self._split is None else self._split.end()
            self.completion = whole
        plain = ((part, self._marked.plain(text)) for part, text in found)
        return [(part, text) for part, text in plain if text]

    def _parts(self, text: str, *, last: bool = False) -> list[tuple[Part, str]]:
        """Divide the next text, with the marks whose place it has reached."""
        if self._split is None:
            return [("answer", text)] if text else []
        self._text += text
        marked = ""
        while self._due:
            certain, uncertain, sign = self._due[0]
            start = max(certain, self._divided)  # a mark before may have taken what was uncertain
            uncertain = uncertain[start - certain :]
            following = self._text[start - self._divided :]
            shared = shared_length(uncertain, following)
            known = shared == len(uncertain) or shared < len(following) or last
            if not known or (certain > self._divided + len(self._text) and not last):
                break
            self._due.popleft()
            marked += self._taken(start + shared - self._divided) + sign
        if not self._due:
            marked += self._taken(len(self._text))
        return self._split.feed(marked)

    def _taken(self, count: int) -> str:
        """The first characters of what has come, which are divided now."""
        text, self._text = self._text[: max(0, count)], self._text[max(0, count) :]
        self._divided += len(text)
        return text


async def follow(
    choices: Sequence[Choice], *, only_whole: bool = False
) -> AsyncIterator[tuple[Choice, list[tuple[Part, str]]]]:
    """The pieces of several sequences as they come; each one's completion comes with its last.

    Args:
        choices: the sequences.
        only_whole: give each once, when it is done.
    """
    loop, changed = asyncio.get_running_loop(), asyncio.Event()

    def wake() -> None:
        with suppress(RuntimeError):  # the loop is closed: nobody reads any more
            loop.call_soon_threadsafe(changed.set)

    for choice in choices:
        choice.handle.watch(wake)
    left = list(choices)
    while left:
        changed.clear()
        for choice in left:
            pieces = choice.pieces(only_whole=only_whole)
            if pieces or choice.completion is not None:
                yield choice, pieces
        left = [choice for choice in left if choice.completion is None]
        if left:
            await changed.wait()
