"""The tokens that end a paragraph, and those that open and close the thinking part."""

from collections.abc import Iterable, Sequence
from functools import lru_cache

import torch
from jaxtyping import Bool
from torch import Tensor

from skipkv.runtime.text import TokenText

_OPEN, _CLOSE, _PARAGRAPH = "<think>", "</think>", "\n\n"


class Marks:
    """A table of the marks of a vocabulary, built from the text of its tokens.

    Steering and calibration use the same table. So a vector is made from the places where it is
    added later.

    Args:
        text: the text of tokens.
        vocabulary: size of the model's vocabulary.
    """

    def __init__(self, text: TokenText, vocabulary: int) -> None:
        pieces = text.pieces(range(vocabulary))
        self.table: Bool[Tensor, "V 3"] = torch.tensor(
            [[_PARAGRAPH in p, p.strip() == _OPEN, p.strip() == _CLOSE] for p in pieces]
        )
        self._ends, self._opens, self._closes = self.table.T.tolist()
        self._paragraphs = _where(self._ends)
        self._turns = _where(self._opens) | _where(self._closes)
        self.has_paragraphs = bool(self._paragraphs)
        """Whether any token ends a paragraph; a steerer acts only at such tokens."""
        self.thinks = any(self._opens) and any(self._closes)
        """Whether the vocabulary has think marks; without them all decoded text is thinking."""

    @classmethod
    @lru_cache(maxsize=4)
    def of(cls, text: TokenText, vocabulary: int) -> "Marks":
        """The table of a vocabulary, cached: a large vocabulary takes seconds to read."""
        return cls(text, vocabulary)

    def paragraph_in(self, tokens: Iterable[int]) -> bool:
        """Whether a token ends a paragraph."""
        return not self._paragraphs.isdisjoint(tokens)

    def turn_in(self, tokens: Iterable[int]) -> bool:
        """Whether a token opens or closes the thinking part."""
        return not self._turns.isdisjoint(tokens)

    def ends_paragraph(self, token: int) -> bool:
        """Whether this token's text holds an empty line."""
        return bool(self._ends[token])

    def thinking(self, token: int, before: bool) -> bool:
        """Whether the sequence is thinking at this token.

        Args:
            token: the token id.
            before: whether the sequence was thinking before it.
        """
        if not self.thinks:
            return before
        return (before or bool(self._opens[token])) and not self._closes[token]


def _where(marked: Sequence[bool]) -> frozenset[int]:
    return frozenset(token for token, mark in enumerate(marked) if mark)
