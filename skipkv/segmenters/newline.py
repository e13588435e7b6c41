"""A sentence ends where a line ends."""

from collections.abc import Sequence

import attrs

from skipkv._types import Cut, TokenStream
from skipkv.segmenters.thoughts import MarkerWords, ThoughtClassifier


@attrs.frozen(kw_only=True)
class Newline:
    """Closes a sentence at every token whose text ends a line.

    It looks at text, so it fits any tokenizer; in a BPE vocabulary its delimiters are the tokens such
    as ".\\n\\n" that the published implementations list.

    Source: SkipKV (arXiv 2512.07993), section 4.1. Differs: all tokens that end in a newline count,
    not a fixed list of seven (`Delimiter` takes a list).

    Args:
        classify: names the thought of a sentence from its text.

    Example:
        >>> Newline().cut(TokenStream.from_pieces(["x", "=2", ".\\n\\n", "So"]))
        [Cut(end=3, thought=<Thought.EXECUTION: 0>)]
    """

    classify: ThoughtClassifier = attrs.field(factory=MarkerWords)

    def cut(self, stream: TokenStream) -> Sequence[Cut]:
        """A cut behind every token that ends in a newline."""
        ends = [i for i, piece in enumerate(stream.pieces, start=1) if piece.endswith("\n")]
        starts = [0, *ends]
        return [
            Cut(end, self.classify(stream[start:end].text))
            for start, end in zip(starts, ends, strict=False)
        ]
