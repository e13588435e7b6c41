"""Which tokens end a paragraph, and which open and close the thinking part."""

from collections.abc import Iterable

import torch
from jaxtyping import Bool
from torch import Tensor

from skipkv.runtime.text import TokenText

_OPEN, _CLOSE, _PARAGRAPH = "<think>", "</think>", "\n\n"


class Marks:
    """A table of a vocabulary, built from the text of its tokens.

    Steering and the calibration of its vectors read the same one, so that a vector is made from the
    very places where it is added later.

    Args:
        text: of the tokens.
        vocabulary: size of the model's.
    """

    def __init__(self, text: TokenText, vocabulary: int) -> None:
        pieces = text.pieces(range(vocabulary))
        self.table: Bool[Tensor, "V 3"] = torch.tensor(
            [[_PARAGRAPH in p, p.strip() == _OPEN, p.strip() == _CLOSE] for p in pieces]
        )
        self._ends, self._opens, self._closes = self.table.T.tolist()
        self._any = frozenset(self.table.any(dim=1).nonzero()[:, 0].tolist())
        self.thinks = any(self._opens) and any(self._closes)
        """Whether the vocabulary has think marks; without them all that is decoded is thinking."""

    def none_in(self, tokens: Iterable[int]) -> bool:
        """Whether no token ends a paragraph, or opens or closes the thinking part."""
        return self._any.isdisjoint(tokens)

    def ends_paragraph(self, token: int) -> bool:
        """Whether this token's text holds an empty line."""
        return bool(self._ends[token])

    def thinking(self, token: int, before: bool) -> bool:
        """Whether the sequence is thinking at this token, where it was (or not) before it."""
        if not self.thinks:
            return before
        return (before or bool(self._opens[token])) and not self._closes[token]
