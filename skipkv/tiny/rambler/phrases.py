"""What the rambling reasoner says: sentences with gaps, and the vocabulary that they make."""

import functools
import re

from skipkv.tiny.vocabulary import DIGITS, NAMES, SPECIAL, SYMBOLS, VALUES

END = ".\n\n"
"""The token that ends a sentence."""
DEFINITION, VALUE, GOAL = "{definition}", "{value}", "{goal}"
"""The gaps: a definition like `d:c-b`, values like `c=4 and b=2`, and names like `b and d`."""

# ---- thoughts without a number
MUSINGS = (
    "Okay, now I go on to the next one and take it slowly, one step after the other",
    "I do not want to rush here, because even one small slip would stay with me to the very end",
    "I keep in mind what the question is about, so that I do not get lost on the way",
    "So far this looks good to me, and there is only little more to do before the end",
    "All of this is taken modulo ten, so there is only ever one digit to think about",
    "The list is long, but one by one it should all come out in the end",
    "Right, that is one more done, and now I can use it for what comes next",
    "I like to go in the order of the names, since then all that I need is there",
)
TRANSITION = f"Alternatively, I could think about where this goes, in the end I have to find {GOAL}"

# ---- thoughts that work a name out: how they begin, where the values come from, the conclusion
STEPS = (
    f"Now the question says that {DEFINITION}",
    f"Next I see in the question that {DEFINITION}",
    f"The next one is given to me as {DEFINITION}",
    f"For this one I look up that it is {DEFINITION}",
)
CHECKS = (
    f"Wait, I want to be really sure about this one, it was {DEFINITION}",
    f"Hmm, let me verify this one with more care, I have {DEFINITION}",
    f"Let me check that once before I go on, it says {DEFINITION}",
)
MORE = f"Let me make sure and work this one out once more, it was {DEFINITION}"
BACK = (
    f"Wait, before I go on I would like to go back to an old one, there I had {DEFINITION}",
    f"Hold on, what about the one that I did long before, I think that it was {DEFINITION}",
)
REDO = f"Since that has changed, I also have to do this one anew, it is {DEFINITION}"
LOST = f"I need some value that I can no longer see, so I work it out anew, it was {DEFINITION}"
GIVEN = (
    f", and from what I did before I know quite well that {VALUE}",
    f", and when I look further up I have found that {VALUE}",
    f", where I have already seen on the way here that {VALUE}",
)
CONCLUSION = (
    f", so when I put all of this in and count, I get {VALUE}",
    f", which taken all in all and modulo ten gives me {VALUE}",
    f", and as far as I can see that makes {VALUE}",
)

# ---- thoughts that compare the last two conclusions
AGREE = (
    "Good, that is just what I had, so I can be happy with it and move on",
    "Yes, this is the same as what I got, so it should be fine now",
)
DIFFER = (
    "Hmm, that is not what I had, so one of the two must be wrong and I have to see which",
    "No, this is not the same as what I got, so something went wrong and I have to do it over",
)

ANSWER = f"So now I have all that I need, with {VALUE}, and so the code is "

# a word with the spaces around it: the one after it, or the one before it where a gap comes before
_WORD = re.compile(r"\{\w+\}|(?:(?<=\})\s)?[^\s{}]+\s?")


@functools.cache
def pieces(phrase: str) -> tuple[str, ...]:
    """The tokens and gaps of a phrase.

    Example:
        >>> pieces("it was {definition}, so I get {value}")
        ('it ', 'was ', '{definition}', ', ', 'so ', 'I ', 'get ', '{value}')
    """
    return tuple(_WORD.findall(phrase))


def _words() -> tuple[str, ...]:
    groups = (
        MUSINGS, (TRANSITION,), STEPS, CHECKS, (MORE,), BACK, (REDO, LOST), GIVEN, CONCLUSION,
        AGREE, DIFFER, (ANSWER,),
    )  # fmt: skip
    found = [piece for group in groups for phrase in group for piece in pieces(phrase)]
    return tuple(dict.fromkeys(piece for piece in found if not piece.startswith("{")))


# around the gaps, and in the question and the answer
_OTHER = (
    "\n", "\n\n", ".\n", END, ". ", ", ", "; ", " and ", "Start at ", ", find ",
    "The code is ", r"\boxed{", "}.",
)  # fmt: skip
TOKENS = tuple(dict.fromkeys((*SPECIAL, *NAMES, *DIGITS, *VALUES, *SYMBOLS, *_OTHER, *_words())))
"""All tokens; a token's id is its index."""
IDS = {token: number for number, token in enumerate(TOKENS)}
FACTS = frozenset(IDS[token] for token in (*NAMES, *DIGITS, *VALUES, *SYMBOLS))
"""The ids that tell a name, a number or a sign."""
