"""A sentence ends at one of a set of token ids."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

import attrs

from skipkv._types import Cut, TokenStream
from skipkv.errors import ConfigError
from skipkv.segmenters._shared import cuts_at
from skipkv.segmenters.thoughts import MarkerWords, ThoughtClassifier, is_classifier

PUBLISHED_DELIMITERS = ("\n", ".\n", ")\n", "\n\n", ".\n\n", ")\n\n", "?\n\n")
"""The texts of the delimiter tokens in SkipKV's published code."""

_REPR_LIMIT = 16


def _id_set(values: Iterable[Any]) -> frozenset[Any]:
    return frozenset(values)  # checked below


@runtime_checkable
class Tokenizer(Protocol):
    """What a delimiter table is built from; transformers' tokenizers have this shape."""

    def get_vocab(self) -> Mapping[str, int]:
        """Every token's id, by its name."""
        ...

    def decode(self, token_ids: list[int], /) -> str:
        """The text of some tokens."""
        ...


@attrs.frozen(kw_only=True, repr=False)
class Delimiter:
    """Closes a sentence at every token whose id is in a table.

    The cheapest segmenter: it reads text only to name a thought. The table is built once, from the
    tokenizer. Each token alone decides whether it closes a sentence, so a stream may arrive in any
    pieces.

    Source: SkipKV (arXiv 2512.07993), section 4.1. Differs: `from_tokenizer` takes all tokens that
    end a line unless it is given a list, as `PUBLISHED_DELIMITERS`.

    Args:
        ids: token ids that close a sentence; at least one.
        classify: names the thought of a sentence from its text.

    Raises:
        ConfigError: `ids` is empty, or holds something other than token ids.

    Example:
        >>> stream = TokenStream(ids=[7, 3, 7, 9], pieces=["x", ".\\n", "y", "z"])
        >>> [cut.end for cut in Delimiter(ids={3, 4}).cut(stream)]
        [2]
    """

    ids: frozenset[int] = attrs.field(converter=_id_set)
    classify: ThoughtClassifier = attrs.field(factory=MarkerWords, validator=is_classifier)

    @ids.validator
    def _token_ids(self, _: object, ids: frozenset[object]) -> None:
        if not ids:
            raise ConfigError(
                "Delimiter(ids=...) must hold at least one token id, got none: no sentence would "
                "ever close. Delimiter.from_tokenizer(tokenizer) collects those that end a line."
            )
        wrong = [i for i in ids if not isinstance(i, int) or isinstance(i, bool) or i < 0]
        if wrong:
            raise ConfigError(
                f"Delimiter(ids=...) must hold token ids, whole numbers from 0, got {wrong[0]!r}. "
                "For texts use Delimiter.from_tokenizer(tokenizer, delimiters)."
            )

    @classmethod
    def from_tokenizer(
        cls,
        tokenizer: Tokenizer,
        delimiters: Iterable[str] | None = None,
        *,
        classify: ThoughtClassifier | None = None,
    ) -> "Delimiter":
        """The table for a tokenizer: its tokens that end a line, or those with a given text.

        Every id of the vocabulary is decoded once, alone. So it does not matter how a vocabulary
        (byte-level, SentencePiece) spells a newline.

        Args:
            tokenizer: anything with `get_vocab()` and `decode(ids)`.
            delimiters: texts that must each be one token, as `PUBLISHED_DELIMITERS`; None for all
                tokens whose text ends in a newline.
            classify: names the thought of a sentence from its text; None for English marker words.

        Raises:
            ConfigError: no token of the vocabulary ends a line, or a given text is not one token.

        Example:
            >>> class Toy:
            ...     def get_vocab(self):
            ...         return {"x": 0, "\\u010a": 1, ".\\u010a\\u010a": 2}
            ...     def decode(self, token_ids):
            ...         return "".join(["x", "\\n", ".\\n\\n"][i] for i in token_ids)
            >>> Delimiter.from_tokenizer(Toy())
            Delimiter(ids={1, 2})
            >>> Delimiter.from_tokenizer(Toy(), [".\\n\\n"])
            Delimiter(ids={2})
        """
        texts = {i: tokenizer.decode([i]) for i in sorted(set(tokenizer.get_vocab().values()))}
        if delimiters is None:
            ids = {i for i, text in texts.items() if text.endswith("\n")}
            if not ids:
                raise ConfigError(
                    f"Delimiter.from_tokenizer found no token that ends a line among the "
                    f"{len(texts)} of {type(tokenizer).__name__}. Name the delimiters, or use "
                    "Punkt() or FixedLength()."
                )
        else:
            wanted = {delimiters} if isinstance(delimiters, str) else set(delimiters)
            ids = {i for i, text in texts.items() if text in wanted}
            missing = sorted(wanted - {texts[i] for i in ids})
            if missing:
                raise ConfigError(
                    f"Delimiter.from_tokenizer(delimiters=...) must name texts that are one token "
                    f"each; {type(tokenizer).__name__} has none for {missing}. Leave them out, or "
                    "leave out `delimiters` to take all tokens that end a line."
                )
        return cls(ids=ids, classify=MarkerWords() if classify is None else classify)

    def cut(self, stream: TokenStream) -> Sequence[Cut]:
        """A cut after every token of the table."""
        ends = [i for i, token in enumerate(stream.ids, start=1) if token in self.ids]
        return cuts_at(stream, ends, self.classify)

    def __repr__(self) -> str:
        # Hundreds of ids would be unreadable. Angle brackets mark a repr that cannot be pasted.
        classify = "" if self.classify == MarkerWords() else f", classify={self.classify!r}"
        if len(self.ids) > _REPR_LIMIT:
            return f"<Delimiter of {len(self.ids)} token ids{classify}>"
        return f"Delimiter(ids={{{', '.join(map(str, sorted(self.ids)))}}}{classify})"
