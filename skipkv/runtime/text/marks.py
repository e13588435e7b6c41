"""The tokens that end a paragraph, and those that open and close the thinking part."""

from collections.abc import Callable, Iterable, Sequence
from functools import lru_cache

import torch
from jaxtyping import Bool
from torch import Tensor

from skipkv.runtime.text.thinking import ThinkingMarks, special_tokens
from skipkv.runtime.text.token_text import TokenText

_PARAGRAPH = "\n\n"


class Marks:
    """A table of the marks of a vocabulary, built from the text of its tokens.

    Steering and calibration use the same table. So a vector is made from the places where it is
    added later.

    A mark of several tokens is found token by token. `steps` has a column for each of its places,
    which says of every token whether it may stand there. A sequence's progress says at which places
    its newest tokens end: `follow` gives it for the next token.

    Args:
        text: the text of tokens.
        vocabulary: size of the model's vocabulary.
        thinking: how the model marks its thinking; None where it does not.
    """

    def __init__(self, text: TokenText, vocabulary: int, thinking: ThinkingMarks | None) -> None:
        pieces = text.pieces(range(vocabulary))
        self.ends: Bool[Tensor, "V"] = torch.tensor([_PARAGRAPH in piece for piece in pieces])
        """Whether a token's text holds an empty line."""
        self._paragraphs = frozenset(i for i, piece in enumerate(pieces) if _PARAGRAPH in piece)
        self.has_paragraphs = bool(self._paragraphs)
        """Whether any token ends a paragraph; a steerer acts only at such tokens."""
        self.closing = "" if thinking is None else thinking.closes
        """The text that closes the thinking part."""
        found = [
            _places(mark, pieces, text) for mark in (() if thinking is None else thinking.given)
        ]
        self.thinks = len(found) > 1 and all(found[:2])
        """Whether the model marks its thinking; otherwise all decoded text is thinking."""
        places = [place for mark in found for place in mark] if self.thinks else []
        self.steps: Bool[Tensor, "V P"] = torch.zeros(vocabulary, len(places), dtype=torch.bool)
        for column, tokens in enumerate(places):
            self.steps[list(tokens), column] = True
        self._used = frozenset().union(*places)
        self.single = all(len(mark) <= 1 for mark in found)
        """Whether every mark is a single token."""
        self.longest = max(map(len, found), default=0)
        """Tokens of the longest mark."""
        self.first, self.opens, self.closes = (
            torch.zeros(len(places), dtype=torch.bool) for _ in range(3)
        )
        start = 0
        for number, mark in enumerate(found if self.thinks else ()):
            if mark:
                self.first[start] = True
                (self.closes if number else self.opens)[start + len(mark) - 1] = True
                start += len(mark)
        special = special_tokens(text.tokenizer) - self._used
        self.breaks: Bool[Tensor, "V"] = torch.zeros(vocabulary, dtype=torch.bool)
        """Special tokens that are no part of marks: in a prompt, a new message begins there."""
        self.breaks[[token for token in special if token < vocabulary]] = True

    @classmethod
    @lru_cache(maxsize=4)
    def of(cls, text: TokenText, vocabulary: int, thinking: ThinkingMarks | None) -> "Marks":
        """The table of a vocabulary, cached: a large vocabulary takes seconds to read."""
        return cls(text, vocabulary, thinking)

    def paragraph_in(self, tokens: Iterable[int]) -> bool:
        """Whether a token ends a paragraph."""
        return not self._paragraphs.isdisjoint(tokens)

    def turn_in(self, tokens: Iterable[int]) -> bool:
        """Whether a token may open or close the thinking part, or be a part of such a mark."""
        return not self._used.isdisjoint(tokens)

    def ends_paragraph(self, token: int) -> bool:
        """Whether this token's text holds an empty line."""
        return token in self._paragraphs

    def thinking(self, prompt: Sequence[int], tokens: Sequence[int]) -> list[bool]:
        """Whether a sequence is thinking, after each of its tokens.

        Args:
            prompt: its first tokens.
            tokens: those that were decoded.
        """
        if not self.thinks:
            return [True] * (len(prompt) + len(tokens))
        progress, now, found = torch.zeros_like(self.first), False, []
        for place, token in enumerate([*prompt, *tokens]):
            if place < len(prompt) and self.breaks[token]:
                now = False
            if progress.any() or token in self._used:
                progress = follow(progress, self.steps[token], self.first)
                now = bool((now or (progress & self.opens).any()) & ~(progress & self.closes).any())
            found.append(now)
        return found


def follow(
    progress: Bool[Tensor, "*B P"], steps: Bool[Tensor, "*B P"], first: Bool[Tensor, "P"]
) -> Bool[Tensor, "*B P"]:
    """The places of marks at which the newest tokens end, after one token more.

    Args:
        progress: those before it.
        steps: those at which the token may stand.
        first: the first places of marks.

    Source: Baeza-Yates and Gonnet 1992, "A new approach to text searching" (shift-and).
    """
    return steps & (first | progress.roll(1, dims=-1))


def _places(mark: str, pieces: Sequence[str], text: TokenText) -> list[frozenset[int]]:
    """The tokens that may stand at each place of a mark; none if the vocabulary cannot write it.

    A mark that is not a token of its own may share its first and its last token with its
    neighbours.
    """
    mark = mark.strip()
    if alone := _where(pieces, lambda piece: piece.strip() == mark):
        return [alone]
    tokenizer = text.tokenizer
    if not callable(tokenizer):
        return []
    ids = tokenizer(mark, add_special_tokens=False)["input_ids"]
    if any(i >= len(pieces) for i in ids):  # the model has fewer tokens than its tokenizer
        return []
    ids = [i for i in ids if pieces[i].strip()]
    if len(ids) < 2 or "".join(pieces[i] for i in ids).strip() != mark:
        return []
    begins, ends = pieces[ids[0]].lstrip(), pieces[ids[-1]].rstrip()
    return [
        _where(pieces, lambda piece: piece.endswith(begins)),
        *(frozenset([i]) for i in ids[1:-1]),
        _where(pieces, lambda piece: piece.startswith(ends)),
    ]


def _where(pieces: Sequence[str], holds: Callable[[str], bool]) -> frozenset[int]:
    return frozenset(token for token, piece in enumerate(pieces) if holds(piece))
