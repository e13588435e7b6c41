"""A sentence is a fixed number of tokens."""

from collections.abc import Sequence

import attrs

from skipkv._types import Cut, TokenStream
from skipkv.errors import ConfigError
from skipkv.segmenters._shared import cuts_at, short_repr
from skipkv.segmenters.thoughts import MarkerWords, ThoughtClassifier, is_classifier


@attrs.frozen(kw_only=True, repr=False)
class FixedLength:
    """Closes a sentence every `tokens` tokens, without reading the text.

    A baseline for segmenters that follow the text, and a choice for text without lines or
    punctuation. A stream begins at a cut, so every sentence has the same length.

    Source: this library.

    Args:
        tokens: length of a sentence, in tokens; at least 1.
        classify: names the thought of a sentence from its text.

    Raises:
        ConfigError: `tokens` is not a whole number of at least 1.

    Example:
        >>> stream = TokenStream.from_pieces(["a", "b", "c", "d", "e"])
        >>> [cut.end for cut in FixedLength(tokens=2).cut(stream)]
        [2, 4]
    """

    tokens: int = attrs.field(default=32)
    classify: ThoughtClassifier = attrs.field(factory=MarkerWords, validator=is_classifier)

    @tokens.validator
    def _at_least_one(self, _: object, value: object) -> None:
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise ConfigError(
                f"FixedLength(tokens={value!r}) must be a whole number of at least 1: it is the "
                "length of a sentence in tokens."
            )

    def cut(self, stream: TokenStream) -> Sequence[Cut]:
        """A cut after every `tokens`-th token."""
        return cuts_at(stream, range(self.tokens, len(stream) + 1, self.tokens), self.classify)

    __repr__ = short_repr
