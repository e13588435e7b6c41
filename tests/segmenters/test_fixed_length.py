"""Sentences of a fixed length."""

import pytest

from skipkv._types import Thought, TokenStream
from skipkv.errors import ConfigError
from skipkv.segmenters import FixedLength


@pytest.mark.parametrize(("length", "ends"), [(0, []), (3, []), (4, [4]), (7, [4]), (9, [4, 8])])
def test_a_sentence_ends_every_so_many_tokens(length: int, ends: list[int]) -> None:
    stream = TokenStream.from_pieces(["a\n"] * length)
    assert [cut.end for cut in FixedLength(tokens=4).cut(stream)] == ends


def test_the_thought_is_read_from_all_tokens_of_the_sentence() -> None:
    cuts = FixedLength(tokens=2).cut(TokenStream.from_pieces(["wa", "it", "x", "y"]))
    assert [cut.thought for cut in cuts] == [Thought.REFLECTION, Thought.EXECUTION]


@pytest.mark.parametrize("tokens", [0, -1, 2.0, "8", True, None])
def test_a_length_below_one_token_is_refused(tokens: object) -> None:
    with pytest.raises(ConfigError, match=r"FixedLength\(tokens=.*at least 1"):
        FixedLength(tokens=tokens)  # type: ignore[arg-type]
