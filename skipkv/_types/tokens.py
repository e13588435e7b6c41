"""A stretch of one sequence's tokens, as ids and as text."""

from collections.abc import Iterable, Sequence, Sized
from typing import Any

import attrs

from skipkv.errors import ConfigError


def _ids(values: Iterable[Any]) -> tuple[Any, ...]:
    return tuple(values)


def _pieces(values: Iterable[Any]) -> tuple[Any, ...]:
    return tuple(values)


def _same_length(self: "TokenStream", _: object, pieces: Sized) -> None:
    if len(pieces) != len(self.ids):
        raise ConfigError(
            f"TokenStream.pieces must hold one text per token id ({len(self.ids)}), got "
            f"{len(pieces)}. Decode each id alone."
        )


@attrs.frozen(kw_only=True)
class TokenStream:
    """Consecutive tokens of one sequence, from the first token of a sentence on.

    Args:
        ids: token ids.
        pieces: the text of each token; joined they are the text of the stretch. A character that
            is split over tokens is the piece of the last of them.

    Raises:
        ConfigError: the numbers of pieces and ids differ.

    Example:
        >>> TokenStream.from_pieces(["So ", "x=2", ".\\n"]).text
        'So x=2.\\n'
    """

    ids: Sequence[int] = attrs.field(converter=_ids)
    pieces: Sequence[str] = attrs.field(converter=_pieces, validator=_same_length)

    @classmethod
    def from_pieces(cls, pieces: Sequence[str]) -> "TokenStream":
        """A stream with ids counted from 0, for tests and for text without a tokenizer."""
        return cls(ids=range(len(pieces)), pieces=pieces)

    @property
    def text(self) -> str:
        """The stretch as one string."""
        return "".join(self.pieces)

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, index: slice) -> "TokenStream":
        return TokenStream(ids=self.ids[index], pieces=self.pieces[index])
