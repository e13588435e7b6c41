"""A sentence ends at its punctuation."""

import functools
import itertools
import re
from bisect import bisect_left
from collections.abc import Iterable, Sequence
from typing import Any

import attrs

from skipkv._types import Cut, TokenStream
from skipkv.errors import ConfigError
from skipkv.segmenters import english
from skipkv.segmenters._shared import cuts_at, short_repr
from skipkv.segmenters.thoughts import MarkerWords, ThoughtClassifier, is_classifier


def _words(values: Iterable[Any]) -> frozenset[str]:
    values = [values] if isinstance(values, str) else values
    return frozenset(str(value).lower().removesuffix(".") for value in values)


def _single_words(self: object, field: "attrs.Attribute[frozenset[str]]", value: Any) -> None:
    for word in value:
        if not word or re.search(r"\s", word):
            raise ConfigError(
                f"Punkt({field.name}=...) must hold single words, got {word!r}, which can never "
                "match. Give the part before the period: 'al' for 'et al.'."
            )


@attrs.frozen(kw_only=True, repr=False)
class Punkt:
    """Closes a sentence at punctuation that ends one, and where a line ends.

    NLTK's Punkt judges every period, question mark and exclamation mark from the words before and
    after it. It is not trained and downloads nothing: it gets a list of abbreviations, and a list
    of words that start sentences. Punkt does not know mathematics, so rules for it come first:

    * An enumerator ("1.") and a factorial ("5! is") do not end a sentence.
    * A single letter is a variable and not an initial ("is x. Then").
    * A sentence does not start with an operator.

    A line end closes a sentence too; within a LaTeX display (`\\[`, `$$`, `\\begin`) only an empty
    line does.

    A sentence ends at white space only. The token that holds its last character closes it, so a
    token that spans two sentences belongs to the first. A boundary is judged when the word after it
    is complete, from the text since the last cut alone. So no later token can change it.

    Source: Kiss and Strunk, Unsupervised Multilingual Sentence Boundary Detection (Computational
    Linguistics 32, 2006), as in `nltk.tokenize.punkt`. Differs: the rules above. It needs a script
    that puts spaces after sentences.

    Args:
        classify: names the thought of a sentence from its text.
        abbreviations: words whose period does not end a sentence, written without the period.
        starters: words that, with a capital, start a sentence even after an abbreviation.

    Raises:
        ConfigError: an abbreviation or a starter is not a single word.

    Example:
        >>> pieces = ["So x", " = 3", ".5", ", i.e", ".", " 7/2.", " Wait", ", "]
        >>> [cut.end for cut in Punkt().cut(TokenStream.from_pieces(pieces))]
        [6]
    """

    classify: ThoughtClassifier = attrs.field(factory=MarkerWords, validator=is_classifier)
    abbreviations: frozenset[str] = attrs.field(
        default=english.ABBREVIATIONS, converter=_words, validator=_single_words
    )
    starters: frozenset[str] = attrs.field(
        default=english.SENTENCE_STARTERS, converter=_words, validator=_single_words
    )

    def cut(self, stream: TokenStream) -> Sequence[Cut]:
        """A cut after the token that holds the last character of each sentence."""
        text = stream.text
        token_ends = list(itertools.accumulate(map(len, stream.pieces)))  # in characters
        ends = []
        start = 0
        # The search restarts at the cut, even in the middle of a word. Text before a cut is never
        # read again, so a whole stream has the same sentences as its pieces.
        while (stop := self._sentence_end(text, start)) is not None:
            token = bisect_left(token_ends, stop)
            ends.append(token + 1)
            start = token_ends[token]
        return cuts_at(stream, ends, self.classify)

    def _sentence_end(self, text: str, start: int) -> int | None:
        """Where the first sentence of `text[start:]` ends; None while later text may decide it."""
        begun, depth, dollars = False, 0, False
        words = itertools.chain(_WORD.finditer(text, start), [None])
        for this, following in itertools.pairwise(words):
            assert this is not None  # only the last of `words` is
            word, gap = this.groups()
            depth, dollars = _displays(word, depth, dollars)
            if depth or dollars:
                if paragraph := _PARAGRAPH.search(gap):
                    return this.end(1) + paragraph.end()
            elif "\n" in gap:
                return this.end(1) + gap.index("\n") + 1
            elif following is None or not following[2]:
                return None
            elif self._ends(word, following[1], first=not begun):
                return this.end(1)
            begun = begun or any(map(str.isalnum, word))
        return None

    def _ends(self, word: str, following: str, *, first: bool) -> bool:
        """Whether a sentence ends between two words of a line."""
        body = word.rstrip(_CLOSING)
        if not body.endswith(_MARKS) or _NO_START.match(following):
            return False
        # Abbreviations are short; the end of a long word is enough, and quick to judge.
        body = body.replace("…", "...")[-64:]
        opened = following.lstrip(_OPENING) or following
        head = _ALPHANUMERIC.match(opened)
        next_word = head[0] if head else opened[0]
        if first and _ENUMERATOR.fullmatch(body):
            return False
        if _FACTORIAL.search(body):
            return next_word[0].isupper()
        variable = _VARIABLE.search(body)
        if variable is not None and variable[1].lower() not in self.abbreviations:
            return not next_word[0].islower()
        judge = _punkt(self.abbreviations, self.starters)
        return bool(judge.text_contains_sentbreak(f"{body} {next_word}"))

    __repr__ = short_repr


_WORD = re.compile(r"(\S+)(\s*)")
_PARAGRAPH = re.compile(r"\n[^\S\n]*\n")
_MARKS = (".", "?", "!", "…")
# characters around sentences: quotes, brackets, markdown, and $ and \) after a formula
_CLOSING = "\"'”\u2019»)]}*_`$\\"
_OPENING = "\"'“\u2018«([{*_`#"
_ALPHANUMERIC = re.compile(r"[^\W_]+")
# a sentence begins with none of these: operators, and closing punctuation
_NO_START = re.compile(r"[-+*/=<>^|·\u00d7÷±→⇒]+\Z|[=,;:)\]}≤≥≠≈….]|\\[)\]]")
_ENUMERATOR = re.compile(r"[\W_]*(?:\d+(?:\.\d+)*|[^\W\d_]|[ivx]+|[IVX]+)\.")
_FACTORIAL = re.compile(r"(?:[\d)\]}]|(?<![^\W_])[^\W\d_])!+\Z")
_VARIABLE = re.compile(r"(?<![\w.])([^\W\d_])\.\Z")
_LATEX = re.compile(r"\\(?:begin\b|end\b|.)|\$\$")


def _displays(word: str, depth: int, dollars: bool) -> tuple[int, bool]:
    """How many LaTeX displays are open after `word`, and whether one of them is a `$$`."""
    for mark in _LATEX.findall(word):
        if mark in ("\\[", "\\begin"):
            depth += 1
        elif mark in ("\\]", "\\end"):
            depth = max(0, depth - 1)
        elif mark == "$$":
            dollars = not dollars
    return depth, dollars


@functools.lru_cache(maxsize=16)
def _punkt(abbreviations: frozenset[str], starters: frozenset[str]) -> Any:
    """NLTK's tokenizer for these lists. It is imported here because few policies use it."""
    from nltk.tokenize.punkt import (  # type: ignore[import-untyped]
        PunktParameters,
        PunktSentenceTokenizer,
    )

    parameters = PunktParameters()
    parameters.abbrev_types = set(abbreviations)
    parameters.sent_starters = set(starters)
    return PunktSentenceTokenizer(parameters)
