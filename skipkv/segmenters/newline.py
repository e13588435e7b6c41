"""A sentence ends where a line ends."""

from collections.abc import Sequence

import attrs

from skipkv._types import Cut, TokenStream
from skipkv.segmenters._shared import cuts_at, short_repr
from skipkv.segmenters.thoughts import MarkerWords, ThoughtClassifier, is_classifier


@attrs.frozen(kw_only=True, repr=False)
class Newline:
    """Closes a sentence at every token whose text ends a line.

    It reads text, so it fits any tokenizer. In a BPE vocabulary its delimiters are tokens such as
    ".\\n\\n", which the published implementations list. Each token alone decides whether it closes
    a sentence, so a stream may arrive in any pieces.

    Source: SkipKV (arXiv 2512.07993), section 4.1. Differs: all tokens that end in a newline count,
    not a fixed list of seven (`Delimiter` takes a list).

    Args:
        classify: names the thought of a sentence from its text.

    Example:
        >>> Newline().cut(TokenStream.from_pieces(["x", "=2", ".\\n\\n", "So"]))
        [Cut(end=3, thought=<Thought.EXECUTION: 0>)]
    """

    classify: ThoughtClassifier = attrs.field(factory=MarkerWords, validator=is_classifier)

    def cut(self, stream: TokenStream) -> Sequence[Cut]:
        """A cut after every token that ends in a newline."""
        ends = [i for i, piece in enumerate(stream.pieces, start=1) if piece.endswith("\n")]
        return cuts_at(stream, ends, self.classify)

    __repr__ = short_repr
