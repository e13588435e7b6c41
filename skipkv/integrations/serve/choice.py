"""One sequence of a request: its text in pieces, as its handle gets tokens."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import suppress
from typing import Any

from skipkv.integrations.serve.thinking import Part, ThinkingSplit
from skipkv.runtime import Completion, Handle
from skipkv.runtime.answer import END_THINK, THINK
from skipkv.runtime.stopping import shown
from skipkv.runtime.streaming import TextStream


class Choice:
    """Reads the handle of one sequence.

    Args:
        number: among those of its request.
        handle: of the sequence.
        tokenizer: the model's tokenizer.
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
        opened = shown(tokenizer, list(prompt[-8:])).rstrip().endswith(THINK)
        self._split = ThinkingSplit(opened=opened) if chat else None
        silent = set(tokenizer.all_special_ids) if chat else set()
        silent -= {tokenizer.unk_token_id}
        ids = tokenizer.convert_tokens_to_ids([THINK, END_THINK])
        marks = zip(ids, (THINK, END_THINK), strict=True)
        self._marks = {token: mark for token, mark in marks if token in silent}

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
            marked = [place for place, token in enumerate(fresh) if token in self._marks]
            fresh = fresh[: marked[-1] + 1] if marked else []
        found: list[tuple[Part, str]] = []
        for token in fresh:
            found += self._parts(self._stream.feed([token]))
            if self._split is not None and token in self._marks:
                found += self._split.mark(self._marks[token])
        if whole is not None:
            found += self._parts(self._stream.rest(whole.text))
            found += [] if self._split is None else self._split.end()
            self.completion = whole
        return found

    def _parts(self, text: str) -> list[tuple[Part, str]]:
        if self._split is None:
            return [("answer", text)] if text else []
        return self._split.feed(text)


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
