"""Thoughts: the function of a sentence. Cuts: where a sentence ends."""

import enum

import attrs

from skipkv._validators import is_a


class Thought(enum.IntEnum):
    """The function of a sentence in a chain of thought.

    Source: SEAL (arXiv 2504.07986), section 2: execution solves, reflection checks earlier steps,
    transition changes the approach. SkipKV counts the last two as "non-execution".
    """

    EXECUTION = 0
    REFLECTION = 1
    TRANSITION = 2


@attrs.frozen
class Cut:
    """The end of a sentence in a stream of tokens.

    Args:
        end: number of tokens of the stream up to and including the one that closes the sentence.
        thought: the function of the sentence.
    """

    end: int = attrs.field(validator=is_a(int, least=1))
    thought: Thought = attrs.field(default=Thought.EXECUTION, converter=Thought)
