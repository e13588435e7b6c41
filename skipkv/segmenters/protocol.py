"""The protocol of segmenters."""

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

from skipkv._types import Cut, TokenStream


@runtime_checkable
class Segmenter(Protocol):
    """Cuts a stream of tokens into sentences and names the thought of each.

    The runtime calls `cut` once per sequence at every compression event, with the tokens since the
    last cut. It is never called per token.

    Laws: cuts are strictly increasing and lie inside the stream; feeding a stream in pieces gives
    the same sentences as feeding it whole. So return a cut only when no later token can change it.
    """

    def cut(self, stream: TokenStream) -> Sequence[Cut]:
        """The sentences that end in `stream`.

        Args:
            stream: tokens of one sequence; it begins where a sentence begins.
        """
        ...
