"""Thinking and answer are told apart in text that comes in pieces."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from skipkv.integrations.serve.thinking import ThinkingSplit


def split(pieces: list[str], *, opened: bool) -> dict[str, str]:
    splitter = ThinkingSplit(opened=opened)
    found = [part for piece in pieces for part in splitter.feed(piece)] + splitter.end()
    assert all(text for _, text in found)
    joined: dict[str, str] = {}
    for part, text in found:
        joined[part] = joined.get(part, "") + text
    return joined


@pytest.mark.parametrize(
    ("text", "opened", "expected"),
    [
        ("\nso 3.\n\n</think>\n\nIt is 3.\n", True, {"thinking": "so 3.", "answer": "It is 3.\n"}),
        ("<think>\nso 3.</think>3", False, {"thinking": "so 3.", "answer": "3"}),
        (" <think>so", False, {"thinking": "so"}),
        ("<think>so</think>", True, {"thinking": "so"}),
        ("so  ", True, {"thinking": "so"}),
        ("</think>3", True, {"answer": "3"}),
        (" 3 <think> ", False, {"answer": " 3 <think> "}),
        ("3</think>4", False, {"answer": "3</think>4"}),
        ("a</think>b</think>c", True, {"thinking": "a", "answer": "b</think>c"}),
        ("a </thin k</think>b", True, {"thinking": "a </thin k", "answer": "b"}),
        ("", True, {}),
        ("<th", False, {"answer": "<th"}),
        ("<th", True, {"thinking": "<th"}),
    ],
)
def test_thinking_goes_to_the_first_end_mark(
    text: str, opened: bool, expected: dict[str, str]
) -> None:
    assert split([text], opened=opened) == expected
    assert split(list(text), opened=opened) == expected


texts = st.lists(st.sampled_from(["<think>", "</think>", "<", "</thi", " ", "\n\n", "a", "b "]))


@given(parts=texts, opened=st.booleans(), data=st.data())
def test_the_parts_do_not_depend_on_the_pieces(
    parts: list[str], opened: bool, data: st.DataObject
) -> None:
    text = "".join(parts)
    cuts = data.draw(st.lists(st.integers(0, len(text))).map(sorted))
    pieces = [text[a:b] for a, b in pairwise([0, *cuts, len(text)])]
    assert split(pieces, opened=opened) == split([text], opened=opened)


def test_marks_may_be_special_tokens_which_the_text_lacks() -> None:
    splitter = ThinkingSplit(opened=False)
    found = [*splitter.mark("<think>"), *splitter.feed("\nso 3. "), *splitter.mark("</think>")]
    found += [*splitter.feed("\n\n3"), *splitter.end()]
    assert found == [("thinking", "so 3."), ("answer", "3")]
