"""The text of single tokens, and which tokens are bytes."""

from collections.abc import Iterable
from typing import Any, Protocol, runtime_checkable


@runtime_checkable
class Decoder(Protocol):
    """The part of a tokenizer that gives the text of its tokens."""

    def decode(self, token_ids: list[int], **kwargs: Any) -> Any:
        """The text of a sequence of tokens."""
        ...


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
        """The text of each token."""
        return [self[token] for token in tokens]

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
