"""Finds the answer in the text of a model."""

import re

from skipkv.runtime.text.thinking import TAGS, ThinkingMarks

_BOXED = re.compile(r"\\boxed(?![A-Za-z])\s*")
# The content of `\boxed` without braces: a number, a command with its arguments, or a letter.
_ARGUMENT = r"\s*(?:[0-9A-Za-z]|\{(?:[^{}]|\{[^{}]*\})*\})"
_UNBRACED = re.compile(
    r"[-+]?(?:\d+(?:[.,]\d+)*(?:/\d+)?"
    rf"|\\[dtc]?frac{_ARGUMENT}{_ARGUMENT}"
    rf"|\\sqrt(?:\[\w+\])?{_ARGUMENT}"
    rf"|\\(?:text|textbf|mathrm|mathbf){_ARGUMENT}"
    r"|\\(?!boxed)[A-Za-z]+"
    r"|[A-Za-z](?![A-Za-z]))"
)
# The text between two parts of one answer: `\boxed{3}$ and $y = \boxed{5}`.
_SPACE = r"[\s$&]|\\[,;!()\[\] ]|\\q?quad(?![A-Za-z])|[A-Za-z]\s*="
_JOINT = r"[,;]|\band\b|\bor\b|\\text\s*\{\s*(?:,|and|or)\s*\}"
_BETWEEN = re.compile(rf"(?:{_SPACE})*(?:{_JOINT})(?:{_SPACE}|{_JOINT})*")


def final_answer(
    text: str, *, opened: bool = False, marks: ThinkingMarks | None = None
) -> str | None:
    r"""The content of the last `\boxed{...}` after the thinking; None if there is no such box.

    A box inside the thinking is not the answer: a trace that was cut off inside it has no
    answer. If the model does not mark its thinking, the whole text counts.

    Boxes that are empty or never closed do not count. Boxes joined by a comma, "and" or "or" are
    the parts of one answer; commas separate them in the result. A box without braces, `\boxed 5`,
    holds a number, a letter, or a command with its arguments.

    Args:
        text: the decoded text, special tokens included.
        opened: whether the prompt has begun the thinking, as with some chat templates.
        marks: how the model marks its thinking; by default with `<think>` and `</think>`.

    Example:
        >>> final_answer(r"<think> \boxed{4}? No. </think> It is \boxed{\frac{1}{2}}.")
        '\\frac{1}{2}'
        >>> final_answer(r"$x = \boxed{3}$ and $y = \boxed{5}$")
        '3, 5'
        >>> final_answer(r"<think> perhaps \boxed{4}") is None
        True
    """
    _, after = (marks or TAGS).split(text, begun="thinking" if opened else None)
    if after is None:
        return None
    parts: list[str] = []
    following = 0  # the place where the part after this one begins
    for match in reversed(list(_BOXED.finditer(after))):
        content = _content(after, match.end())
        if content is None:
            continue
        answer, end = content
        if parts and not (end <= following and _BETWEEN.fullmatch(after, end, following)):
            break
        if answer not in parts:
            parts.insert(0, answer)
        following = match.start()
    return ", ".join(parts) or None


def thinking(text: str, marks: ThinkingMarks | None = None) -> str:
    """The part between the marks; it reaches to the end of the text if one of them is missing.

    Args:
        text: the decoded text, special tokens included.
        marks: how the model marks its thinking; by default with `<think>` and `</think>`.

    Example:
        >>> thinking("<think>a</think>b"), thinking("a</think>b"), thinking("<think>a")
        ('a', 'a', 'a')
    """
    marks = marks or TAGS
    if marks.answers is not None and any(mark in text for mark in marks.given):
        return marks.split(text)[0] or ""
    inside = text.partition(marks.opens)[2] if marks.opens in text else text
    return inside.partition(marks.closes)[0]


def _content(text: str, start: int) -> tuple[str, int] | None:
    """The content of a box and its end; its `{`, or its content, begins at `start`."""
    if not text.startswith("{", start):
        found = _UNBRACED.match(text, start)
        return None if found is None else (found[0], found.end())
    depth = 0
    for match in re.compile(r"\\.|[{}]", re.DOTALL).finditer(text, start):
        depth += {"{": 1, "}": -1}.get(match[0], 0)  # an escaped brace does not count
        if depth == 0:
            content = text[start + 1 : match.start()].strip()
            return (content, match.end()) if content else None
    return None
