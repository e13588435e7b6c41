"""The laws of segmenters."""

from collections.abc import Mapping, Sequence
from typing import Any

from hypothesis import strategies as st

from skipkv._types import Cut, TokenStream
from skipkv.segmenters import Segmenter
from skipkv.testing.laws.common import protocol_law
from skipkv.testing.laws.law import Broken, Case, Law, hold_all
from skipkv.testing.streams import token_streams


def fed_in_pieces(segmenter: Any, stream: TokenStream, lengths: Sequence[Any]) -> list[Any]:
    """The cuts when tokens arrive `lengths` at a time, as the runtime calls a segmenter.

    Args:
        segmenter: any segmenter.
        stream: the whole stream. Tokens that `lengths` leave over come last, in one piece.
        lengths: tokens that arrive before each call.

    Example:
        >>> from skipkv.segmenters import Newline
        >>> stream = TokenStream.from_pieces(["a", "\\n", "b"])
        >>> [cut.end for cut in fed_in_pieces(Newline(), stream, [1, 1])]
        [2]
    """
    cuts: list[Any] = []
    start = seen = 0
    for length in [*lengths, len(stream)]:
        seen = min(len(stream), seen + length)
        found = segmenter.cut(stream[start:seen])
        cuts += [Cut(start + cut.end, cut.thought) for cut in found]
        start = cuts[-1].end if cuts else 0
    return cuts


def _answer(segmenter: Any, case: Case) -> None:
    cuts = segmenter.cut(case.draw("stream", token_streams(max_tokens=12)))
    if not isinstance(cuts, Sequence) or not all(isinstance(cut, Cut) for cut in cuts):
        raise Broken(f"cut returned {cuts!r}.")


def _order(segmenter: Any, case: Case) -> None:
    stream = case.draw("stream", token_streams(max_tokens=12))
    ends = [cut.end for cut in segmenter.cut(stream)]
    if ends != sorted(set(ends)) or (ends and ends[-1] > len(stream)):
        raise Broken(f"a stream of {len(stream)} tokens was cut at {ends}.")


def _streaming(segmenter: Any, case: Case) -> None:
    stream = case.draw("stream", token_streams())
    one_by_one = st.just([1] * len(stream))
    pieces = st.lists(st.integers(0, 7), max_size=30)
    lengths = case.draw("tokens before each call", one_by_one | pieces)
    whole, fed = list(segmenter.cut(stream)), fed_in_pieces(segmenter, stream, lengths)
    if fed != whole:
        raise Broken(f"fed so, the cuts were\n  {fed}\nand those of the whole are\n  {whole}")


def _deterministic(segmenter: Any, case: Case) -> None:
    stream = case.draw("stream", token_streams(max_tokens=12))
    other = case.draw("other stream, cut in between", token_streams(max_tokens=12))
    before = list(segmenter.cut(stream))
    segmenter.cut(other)
    after = list(segmenter.cut(stream))
    if before != after:
        raise Broken(f"cut returned\n  {before}\nand when asked again\n  {after}")


LAWS = (
    protocol_law(Segmenter, "the segmenter"),
    Law(
        name="answer",
        says="cut returns a sequence of skipkv.Cut.",
        why="the runtime counts tokens and thoughts with them.",
        check=_answer,
        basic=True,
    ),
    Law(
        name="order",
        says="Cuts are strictly increasing and lie inside the stream.",
        why="a sentence holds at least one token, and only tokens that are already decoded.",
        check=_order,
        basic=True,
    ),
    Law(
        name="deterministic",
        says="The same stream gets the same cuts, whatever was cut before.",
        why="one segmenter serves all sequences in turn, so state in it changes later sequences.",
        check=_deterministic,
    ),
    Law(
        name="streaming",
        says="Feeding a stream in pieces gives the same sentences as feeding it whole.",
        why="cut is called at compression events, which come at any token and not at the ends of "
        "sentences. Return a cut only when no later token can change it.",
        check=_streaming,
    ),
)


def check_segmenter(
    segmenter: Segmenter, *, claims: Mapping[str, str] | None = None, examples: int = 100
) -> None:
    """Hold a segmenter to the laws of its protocol.

    Args:
        segmenter: any segmenter.
        claims: laws that it breaks on purpose, each with the reason. A claimed law that it keeps
            is an error too.
        examples: streams tried per law.

    Raises:
        ConformanceError: a law is broken; the message shows the shortest stream on which it is.
        ConfigError: `claims` names something that is not a law, or gives no reason.

    Example:
        >>> from skipkv.segmenters import Newline
        >>> check_segmenter(Newline(), examples=10)
    """
    hold_all(LAWS, segmenter, claims, examples)
