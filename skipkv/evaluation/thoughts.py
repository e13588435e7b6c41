"""Counts the thoughts of a finished trace, in the same way for every policy."""

import collections

from skipkv._types import Thought
from skipkv.evaluation.answers import thinking
from skipkv.runtime.text.thinking import ThinkingMarks
from skipkv.segmenters import MarkerWords


def count_thoughts(text: str, marks: ThinkingMarks | None = None) -> dict[Thought, int]:
    r"""The number of sentences of each kind in the thinking part; a line with a word is a sentence.

    Policies have different segmenters, or none. This function reads all traces in the same way, so
    that the counts of the full cache and of policies can be compared.

    Args:
        text: the decoded text, special tokens included.
        marks: how the model marks its thinking; by default with `<think>` and `</think>`.

    Source: SkipKV (arXiv 2512.07993), section 3: non-execution thoughts are what eviction adds.

    Example:
        >>> counts = count_thoughts("<think>2+3=5.\n\nWait, again: 2+3=5.\n\n</think> \\boxed{5}")
        >>> counts[Thought.EXECUTION], counts[Thought.REFLECTION], counts[Thought.TRANSITION]
        (1, 1, 0)
    """
    classify = MarkerWords.english()
    sentences = (line for line in thinking(text, marks).split("\n") if any(map(str.isalnum, line)))
    counts = collections.Counter(map(classify, sentences))
    return {thought: counts[thought] for thought in Thought}
