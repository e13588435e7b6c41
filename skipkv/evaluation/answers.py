"""Finding the answer in what a model wrote."""

import re

THINK, END_THINK = "<think>", "</think>"
_BOXED = re.compile(r"\\boxed\s*\{")


def final_answer(text: str, *, opened: bool = False) -> str | None:
    r"""What stands in the last complete `\boxed{...}` behind the thinking; None where nothing does.

    What a model boxes while it thinks is not yet its answer: a trace cut off inside
    `<think>` has none. A model that does not mark its thinking answers with all it writes.

    Args:
        text: the decoded text, special tokens included.
        opened: whether the prompt ended in `<think>`, as some chat templates let it.

    Example:
        >>> final_answer(r"<think> \boxed{4}? No. </think> It is \boxed{\frac{1}{2}}.")
        '\\frac{1}{2}'
        >>> final_answer(r"<think> perhaps \boxed{4}") is None
        True
    """
    _, closed, behind = text.rpartition(END_THINK)
    if not closed and (opened or THINK in text):
        return None
    for match in reversed(list(_BOXED.finditer(behind))):
        content = _balanced(behind[match.end() :])
        if content is not None:
            return content.strip()
    return None


def thinking(text: str) -> str:
    """The part between `<think>` and `</think>`; to the text's ends where a mark is missing.

    Example:
        >>> thinking("<think>a</think>b"), thinking("a</think>b"), thinking("<think>a")
        ('a', 'a', 'a')
    """
    inside = text.partition(THINK)[2] if THINK in text else text
    return inside.partition(END_THINK)[0]


def _balanced(text: str) -> str | None:
    """`text` up to the brace that closes one opened before it; None where none does."""
    depth = 1
    for match in re.finditer(r"\\.|[{}]", text, re.DOTALL):
        depth += {"{": 1, "}": -1}.get(match[0], 0)  # an escaped brace counts for nothing
        if depth == 0:
            return text[: match.start()]
    return None
