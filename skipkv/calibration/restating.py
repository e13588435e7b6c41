"""Whether a sentence restates an earlier one, judged from their text alone."""

import functools
import re
from collections import Counter

import attrs

from skipkv.segmenters import english

SHARE = 0.5
"""The share of words that two sentences must have in common, of the one with more words."""

# Words that mark the kind of a thought say nothing of what it is about.
_IDLE = english.CONNECTIVES | {
    word
    for phrase in (*english.REFLECTION, *english.TRANSITION)
    for word in phrase.replace("-", " ").split()
}

_MARKUP = re.compile(r"\*\*|[\\{}$|`\"]")
_THOUSANDS = re.compile(r"(?<=\d),(?=\d{3})")
# "x = 5" is one fact, as "x=5" is. A minus sign must stand between numbers or names of one letter,
# or it is a dash.
_SPACED = re.compile(
    r"\s*([=+^<>\u00d7\u00b7\u00f7\u2264\u2265\u2260])\s*"
    r"|(?<=\d)\s+([-\u2212*/])\s+(?=\d|\w\b)|(?<=\b[A-Za-z])\s+([-\u2212*/])\s+(?=\d|\w\b)"
)
_FACT = re.compile(r"\d|[=+^<>\u00d7\u00b7\u00f7\u2264\u2265\u2260]|(?<!\w)\w[-\u2212:/*]\w|^\w$")
_ENDS = re.compile(r"[.!?:][\"')\]]*$")
_EDGES = ".,;:!?()[]'*"


@attrs.frozen
class Statement:
    """What a sentence says, as far as its text tells.

    Args:
        facts: numbers, formulas, names of one letter, and names with a capital.
        words: how often each other word occurs; marker words and connectives are left out.
        negated: whether a word denies something.
    """

    facts: frozenset[str]
    words: Counter[str] = attrs.field(hash=False)
    negated: bool

    @classmethod
    @functools.lru_cache(maxsize=4096)
    def of(cls, text: str) -> "Statement":
        """The statement of a sentence.

        Args:
            text: the sentence.

        Example:
            >>> sorted(Statement.of("Wait, Ann has 3 apples, so x = 3+4.").facts)
            ['3', 'ann', 'x=3+4']
            >>> Statement.of("Wait, Ann has 3 apples, so x = 3+4.").words
            Counter({'has': 1, 'apples': 1})
        """
        facts, words, negated = set(), Counter[str](), False
        begins = True  # a capital at the beginning of a sentence names nothing
        plain = _SPACED.sub(lambda found: "".join(filter(None, found.groups())), _plain(text))
        for piece in plain.split():
            token = piece.strip(_EDGES).replace("\u2019", "'")
            low = token.lower()
            if low in english.NEGATIONS or low.endswith("n't"):
                negated = True
            elif token and _names(token, begins=begins):
                facts.add(low)
            else:
                words.update(word for word in low.split("-") if word and word not in _IDLE)
            begins = _ENDS.search(piece) is not None
        return cls(frozenset(facts), words, negated)


def restates(earlier: str, later: str) -> bool | None:
    """Whether a later sentence says what an earlier one says, so that the earlier one can go.

    It does where it has all facts of the earlier one (numbers, formulas, names) and at least half
    of the words, counted in the sentence that has more of them. Marker words such as "wait" and
    connectives such as "so" do not count. The answer depends on the two texts only.

    Args:
        earlier: a sentence.
        later: a sentence after it.

    Returns:
        False if a fact of the earlier sentence is missing in the later one, or only one of them
        denies something. None where the text cannot tell: the earlier sentence has no facts, or
        its facts are all there, in other words.

    Example:
        >>> restates("b:a+5. a=7, 7+5=2, so b=2.", "Wait, b:a+5. a=7, 7+5=2, so b=2.")
        True
        >>> restates("b:a+5. a=7, 7+5=2, so b=2.", "c:a+5. a=7, 7+5=2, so c=2.")
        False
        >>> restates("Ann has 3 apples.", "So, with 3 in her basket, Ann goes home.") is None
        True
    """
    first, second = Statement.of(earlier), Statement.of(later)
    if not first.facts:
        return None
    if not first.facts <= second.facts or first.negated != second.negated:
        return False
    most = max(first.words.total(), second.words.total())
    return True if (first.words & second.words).total() >= SHARE * most else None


def _plain(text: str) -> str:
    """The text without markup and without commas inside numbers."""
    return _THOUSANDS.sub("", _MARKUP.sub(" ", text))


def _names(token: str, *, begins: bool) -> bool:
    """Whether a token is a fact: a number, a formula or a name."""
    if token in ("a", "A", "I"):
        return False
    return _FACT.search(token) is not None or (token[0].isupper() and not begins)
