"""Value types shared by all parts: what parts are given and what they return.

One type per file. The types know no model, and their values never change.
Add a type here only when two kinds of part use it, or a part and the runtime.
"""

from skipkv._types.heads import over_heads
from skipkv._types.model_shape import ModelShape
from skipkv._types.needs import SUM, Needs, needs_of
from skipkv._types.records import (
    Decayed,
    LastAbove,
    LongestGap,
    Memory,
    PairedStatistic,
    Peak,
    Record,
    Statistic,
    Sum,
    Written,
)
from skipkv._types.request import Request
from skipkv._types.rotation import Rotation
from skipkv._types.sentences import SentenceTable
from skipkv._types.steering import SteeringContext
from skipkv._types.thoughts import Cut, Thought
from skipkv._types.tokens import TokenStream
from skipkv._types.view import CacheView

__all__ = [
    "SUM",
    "CacheView",
    "Cut",
    "Decayed",
    "LastAbove",
    "LongestGap",
    "Memory",
    "ModelShape",
    "Needs",
    "PairedStatistic",
    "Peak",
    "Record",
    "Request",
    "Rotation",
    "SentenceTable",
    "Statistic",
    "SteeringContext",
    "Sum",
    "Thought",
    "TokenStream",
    "Written",
    "needs_of",
    "over_heads",
]
