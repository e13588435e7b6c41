"""The text of single tokens, and which tokens are bytes."""

from collections.abc import Iterable
from typing import Any, Protocol, runtime_checkable

import attrs

# Tokens that may be needed for one character: it has four bytes at most, and tokenizers of bytes
# that are no text have runs of them.
_LONGEST = 8


@runtime_checkable
class Decoder(Protocol):
    """The part of a tokenizer that gives the text of its tokens."""

    def decode(self, token_ids: list[int], **kwargs: Any) -> Any:
        """The text of a sequence of tokens."""
        ...


@attrs.frozen
class Unfinished:
    """The newest tokens of a sequence, where they end inside a character.

    Args:
        tokens: from the one on that begins the character.
        told: characters of their text that are told already.
    """

    tokens: tuple[int, ...] = ()
    told: int = 0


class TokenText:
    """The text each token adds when it follows others, computed once per token id.

    A token is decoded after a copy of itself, because tokenizers that mark word starts strip the
    space of a text's first token.
    """

    def __init__(self, tokenizer: Decoder) -> None:
        self.tokenizer = tokenizer
        self._known: dict[int, str] = {}

    def __getitem__(self, token: int) -> str:
        text = self._known.get(token)
        if text is None:
            alone = self._decode([token])
            text = self._known[token] = self._decode([token, token])[len(alone) :]
        return text

    def pieces(self, tokens: Iterable[int]) -> list[str]:
        """The text of each token alone."""
        return [self[token] for token in tokens]

    def whole(self, tokens: Iterable[int]) -> list[str]:
        """The text of each token of a whole sequence: see `following`."""
        return self.following(Unfinished(), tokens)[0]

    def following(self, before: Unfinished, tokens: Iterable[int]) -> tuple[list[str], Unfinished]:
        """The text that each of the next tokens adds to a sequence, in whole characters.

        A character that is split over tokens is the text of the last of them.

        Args:
            before: where the tokens before these stand.
            tokens: the next ones.

        Returns:
            A piece per token, and where they stand. Pieces do not depend on where a sequence is
            divided, but for the last character.
        """
        open_, told = before.tokens, before.told
        pieces = []
        for token in tokens:
            piece = self[token]
            if open_ or "\ufffd" in piece:
                open_ = (*open_, token)
                text = self._decode([*open_])
                certain = text if len(open_) == _LONGEST else text.rstrip("\ufffd")
                piece, told = certain[told:], max(told, len(certain))
                if certain == text:
                    open_, told = (), 0
            pieces.append(piece)
        return pieces, Unfinished(open_, told)

    def _decode(self, tokens: list[int]) -> str:
        return str(
            self.tokenizer.decode(
                tokens, skip_special_tokens=False, clean_up_tokenization_spaces=False
            )
        )


def byte_tokens(tokenizer: Any) -> set[int]:
    """The single-byte tokens of a tokenizer with byte fallback.

    The tokenizer reads a run of them together: a later byte may change the text of earlier ones.
    """
    names = [f"<0x{byte:02X}>" for byte in range(256)]
    unknown = (None, tokenizer.unk_token_id)
    return {i for i in tokenizer.convert_tokens_to_ids(names) if i not in unknown}
