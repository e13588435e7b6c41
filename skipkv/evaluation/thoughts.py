"""Counting thoughts in a finished trace, whatever policy it was decoded under."""

import collections

from skipkv._types import Thought
from skipkv.evaluation.answers import thinking
from skipkv.segmenters import MarkerWords


def count_thoughts(text: str) -> dict[Thought, int]:
    r"""Sentences of each kind inside the thinking part, a sentence being a line with a word in it.

    The policies' own segmenters see only what the policy needs; here all traces are read alike, so
    that the full cache's count can stand beside the others.

    Source: SkipKV (arXiv 2512.07993), section 3: non-execution thoughts are what eviction adds.

    Example:
        >>> counts = count_thoughts("<think>2+3=5.\n\nWait, again: 2+3=5.\n\n</think> \\boxed{5}")
        >>> counts[Thought.EXECUTION], counts[Thought.REFLECTION], counts[Thought.TRANSITION]
        (1, 1, 0)
    """
    classify = MarkerWords.english()
    sentences = (line for line in thinking(text).split("\n") if any(map(str.isalnum, line)))
    counts = collections.Counter(map(classify, sentences))
    return {thought: counts[thought] for thought in Thought}
