"""Segmenters cut a stream of tokens into sentences and name the thought of each.

One segmenter per file, named for it. To add one: write a frozen attrs class with `cut(stream)` that
returns a cut only when no later token can change it, export it here, and test that feeding a stream
in pieces gives the same sentences as feeding it whole.
"""

from skipkv.segmenters.delimiter import PUBLISHED_DELIMITERS, Delimiter
from skipkv.segmenters.fixed_length import FixedLength
from skipkv.segmenters.newline import Newline
from skipkv.segmenters.protocol import Segmenter
from skipkv.segmenters.punkt import Punkt
from skipkv.segmenters.thoughts import MarkerWords, ThoughtClassifier

__all__ = [
    "PUBLISHED_DELIMITERS",
    "Delimiter",
    "FixedLength",
    "MarkerWords",
    "Newline",
    "Punkt",
    "Segmenter",
    "ThoughtClassifier",
]
