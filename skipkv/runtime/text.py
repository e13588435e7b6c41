"""The text of single tokens."""

from collections.abc import Iterable, Sequence
from typing import Any, Protocol, runtime_checkable


@runtime_checkable
class Decoder(Protocol):
    """What is needed of a tokenizer to know the text of its tokens."""

    def decode(self, token_ids: Sequence[int], **kwargs: Any) -> Any:
        """The text of a sequence of tokens."""
        ...


class TokenText:
    """The text each token adds when it follows others, looked up once per token id.

    A token is decoded behind a copy of itself, because tokenizers that mark word starts strip the
    space of a text's first token.
    """

    def __init__(self, tokenizer: Decoder) -> None:
        self._tokenizer = tokenizer
        self._known: dict[int, str] = {}

    def __getitem__(self, token: int) -> str:
        text = self._known.get(token)
        if text is None:
            alone = self._decode([token])
            text = self._known[token] = self._decode([token, token])[len(alone) :]
        return text

    def pieces(self, tokens: Iterable[int]) -> list[str]:
        """The text of each token."""
        return [self[token] for token in tokens]

    def _decode(self, tokens: list[int]) -> str:
        return str(
            self._tokenizer.decode(
                tokens, skip_special_tokens=False, clean_up_tokenization_spaces=False
            )
        )
