"""Naming thoughts: what a sentence was for, from its text."""

import re
from typing import Protocol

import attrs

from skipkv._types import Thought


class ThoughtClassifier(Protocol):
    """Any callable from the text of a sentence to its `Thought`."""

    def __call__(self, text: str, /) -> Thought:
        """The thought of the sentence `text`."""
        ...


@attrs.frozen(kw_only=True)
class MarkerWords:
    """Names a thought by the marker words it contains; without any it is execution.

    Works on text and so with any tokenizer. Markers match whole words, whatever their case. A sentence
    with markers of both kinds is a transition.

    Source: the word lists of SEAL (arXiv 2504.07986), section 2.

    Args:
        reflection: phrases that mark checking what was done.
        transition: phrases that mark a change of the line of attack.

    Example:
        >>> MarkerWords()("Wait, let me double-check that.")
        <Thought.REFLECTION: 1>
    """

    reflection: tuple[str, ...] = attrs.field(
        default=(
            "wait", "verify", "make sure", "hold on", "think again", "'s correct", "'s incorrect",
            "let me check", "double-check", "double check", "seems right", "again",
        ),
        converter=tuple,
    )  # fmt: skip
    transition: tuple[str, ...] = attrs.field(
        default=(
            "alternatively", "think differently", "another way", "another approach",
            "another method", "another solution", "another strategy", "another technique",
        ),
        converter=tuple,
    )  # fmt: skip

    def __call__(self, text: str, /) -> Thought:
        """The thought of the sentence `text`."""
        if _contains(text, self.transition):
            return Thought.TRANSITION
        return Thought.REFLECTION if _contains(text, self.reflection) else Thought.EXECUTION


def _contains(text: str, phrases: tuple[str, ...]) -> bool:
    if not phrases:
        return False
    pattern = "|".join(re.escape(phrase) for phrase in phrases)
    return re.search(rf"(?<!\w)(?:{pattern})(?!\w)", text, re.IGNORECASE) is not None
