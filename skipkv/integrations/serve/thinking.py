"""Splits text into thinking and answer while it comes."""

from typing import Literal

from skipkv.runtime.answer import END_THINK, THINK

Part = Literal["thinking", "answer"]


class ThinkingSplit:
    """Splits the text of one sequence, in pieces of any size, into its thinking and its answer.

    Thinking begins where the prompt ends in `<think>` or the text begins with it, and ends at the
    first `</think>`. All else is answer. White space around the thinking, and before an answer that
    follows it, is dropped. What may still belong to a mark, or be dropped, is held back.

    `Completion.thinking` goes to the last `</think>`, which a stream cannot know.

    Args:
        opened: whether the prompt ends in `<think>`.

    Example:
        >>> split = ThinkingSplit(opened=True)
        >>> split.feed(" so 3.</th"), split.feed("ink>\\n\\nIt is 3."), split.end()
        ([('thinking', 'so 3.')], [('answer', 'It is 3.')], [])
    """

    def __init__(self, *, opened: bool) -> None:
        self._state: Literal["beginning", "thinking", "answer"] = "beginning"
        self._opened = opened
        self._held = ""
        self._strips = False  # white space at the beginning of what comes is dropped

    def feed(self, text: str) -> list[tuple[Part, str]]:
        """Take the next text; return the parts that are certain."""
        self._held += text
        found: list[tuple[Part, str]] = []
        if self._state == "beginning":
            self._begin()
        if self._state == "thinking":
            found += self._think()
        if self._state == "answer":
            found += self._part("answer", len(self._held))
        return found

    def mark(self, mark: str) -> list[tuple[Part, str]]:
        """Take a mark that is a special token, which the text lacks."""
        found: list[tuple[Part, str]] = []
        if self._state == "beginning" and not self._held.strip():
            self._state, self._held, self._strips = "thinking", "", True
        if mark == END_THINK and self._state == "thinking":
            found = self.end()
            self._state, self._strips = "answer", True
        return found

    def end(self) -> list[tuple[Part, str]]:
        """No more text comes; return what was held back."""
        if self._state == "thinking" or (self._state == "beginning" and self._opened):
            self._held = self._held.rstrip()
            return self._part("thinking", len(self._held))
        return self._part("answer", len(self._held))

    def _begin(self) -> None:
        start = self._held.lstrip()
        if THINK.startswith(start):  # not known yet, the empty text included
            if start == THINK:
                self._state, self._held, self._strips = "thinking", "", True
        elif start.startswith(THINK) or self._opened:
            self._held = start.removeprefix(THINK)
            self._state, self._strips = "thinking", True
        else:
            self._state = "answer"

    def _think(self) -> list[tuple[Part, str]]:
        thought, mark, after = self._held.partition(END_THINK)
        if mark:
            self._held = thought.rstrip()
            found = self._part("thinking", len(self._held))
            self._state, self._held, self._strips = "answer", after, True
            return found
        begun = next(
            (n for n in range(len(END_THINK) - 1, 0, -1) if thought.endswith(END_THINK[:n])), 0
        )
        return self._part("thinking", len(thought[: len(thought) - begun].rstrip()))

    def _part(self, part: Part, length: int) -> list[tuple[Part, str]]:
        """The first characters of what is held."""
        text, self._held = self._held[:length], self._held[length:]
        if self._strips:
            text = text.lstrip()
            if not text and part == "thinking" and self._held.isspace():
                self._held = ""
        self._strips = self._strips and not text
        return [(part, text)] if text else []
