"""Naming the thought of a sentence from its text."""

import functools
import re
from collections.abc import Iterable
from typing import Any, Protocol, runtime_checkable

import attrs

from skipkv._types import Thought
from skipkv.errors import ConfigError
from skipkv.segmenters import english


@runtime_checkable
class ThoughtClassifier(Protocol):
    """Any callable from the text of a sentence to its `Thought`.

    It is called once for every closed sentence, at compression events, and must depend on the text
    alone.
    """

    def __call__(self, text: str, /) -> Thought:
        """The thought of the sentence `text`."""
        ...


def _phrases(values: Iterable[Any]) -> tuple[Any, ...]:
    # a lone string is an iterable of letters, each of which would be a marker
    return (values,) if isinstance(values, str) else tuple(values)


def _not_empty(
    self: "MarkerWords", field: "attrs.Attribute[tuple[str, ...]]", value: tuple[Any, ...]
) -> None:
    for phrase in value:
        if not isinstance(phrase, str) or not phrase.strip():
            raise ConfigError(
                f"MarkerWords({field.name}=...) must hold phrases with a letter in them, got "
                f"{phrase!r}, which would match every sentence or none. Remove it."
            )


@attrs.frozen(kw_only=True, repr=False)
class MarkerWords:
    """Names a thought by the marker words in its text; without any it is execution.

    It reads text, so it fits any tokenizer. Markers match whole words in upper and lower case. A
    space in a marker matches any white space. A sentence with markers of both kinds is a
    reflection.

    Source: SEAL (arXiv 2504.07986), section 2 and its published word lists; SkipKV (arXiv
    2512.07993) counts both kinds together, by "Wait", "Alternatively" and "again". Differs: SEAL
    looks for "Wait" and "Alternatively" only at the start of a thought, and for the others inside
    words too.

    Args:
        reflection: phrases that mark a check of earlier steps.
        transition: phrases that mark a change of approach.

    Raises:
        ConfigError: a phrase is empty.

    Example:
        >>> MarkerWords.english()("Wait, let me double-check that.")
        <Thought.REFLECTION: 1>
        >>> german = MarkerWords(reflection=["Moment", "prüfen"], transition=["andererseits"])
        >>> german("Andererseits ist x gerade.")
        <Thought.TRANSITION: 2>
    """

    reflection: tuple[str, ...] = attrs.field(
        default=english.REFLECTION, converter=_phrases, validator=_not_empty
    )
    transition: tuple[str, ...] = attrs.field(
        default=english.TRANSITION, converter=_phrases, validator=_not_empty
    )

    @classmethod
    def english(cls) -> "MarkerWords":
        """The English lists, which are also the defaults.

        Example:
            >>> MarkerWords.english() == MarkerWords()
            True
        """
        return cls(reflection=english.REFLECTION, transition=english.TRANSITION)

    def __call__(self, text: str, /) -> Thought:
        """The thought of the sentence `text`."""
        if _pattern(self.reflection).search(text):
            return Thought.REFLECTION
        return Thought.TRANSITION if _pattern(self.transition).search(text) else Thought.EXECUTION

    def __repr__(self) -> str:
        if self == MarkerWords():
            return "MarkerWords.english()"  # a policy's repr holds it, and should stay readable
        return f"MarkerWords(reflection={self.reflection!r}, transition={self.transition!r})"


def is_classifier(self: object, field: "attrs.Attribute[ThoughtClassifier]", value: object) -> None:
    """Validate a segmenter's `classify`: an object that can be called, not a class."""
    if isinstance(value, type) or not callable(value):
        raise ConfigError(
            f"{type(self).__name__}({field.name}=...) must map the text of a sentence to a "
            f"Thought, got {value!r}. Pass a function, or MarkerWords(...)."
        )


# Scripts without spaces between words (Thai to Khmer, kana, Han): a marker may stand anywhere.
_UNSPACED = re.compile(r"[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff]")


@functools.lru_cache(maxsize=64)
def _pattern(phrases: tuple[str, ...]) -> re.Pattern[str]:
    """One expression for all phrases; it runs for every sentence, so it is compiled once."""
    if not phrases:
        return re.compile(r"(?!)")  # matches nothing
    # phrases with the same bounds share one group
    grouped: dict[tuple[str, str], list[str]] = {}
    for phrase in phrases:
        grouped.setdefault(_bounds(phrase.strip()), []).append(_body(phrase))
    alternatives = [f"{b}(?:{'|'.join(bodies)}){e}" for (b, e), bodies in grouped.items()]
    return re.compile("|".join(alternatives), re.IGNORECASE)


def _body(phrase: str) -> str:
    """`phrase` as an expression: its words, with any white space between them."""
    return r"\s+".join(re.escape(word).replace("'", "['\u2019]") for word in phrase.split())


def _bounds(phrase: str) -> tuple[str, str]:
    """Expressions before and after a phrase, so that it matches whole words only.

    "'s correct" may follow a letter.
    """
    before = r"(?<!\w)" if _is_spaced_word(phrase[0]) else ""
    after = r"(?!\w)" if _is_spaced_word(phrase[-1]) else ""
    return before, after


def _is_spaced_word(character: str) -> bool:
    return re.match(r"\w", character) is not None and _UNSPACED.match(character) is None
