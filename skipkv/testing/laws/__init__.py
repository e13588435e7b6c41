"""The laws of each protocol, and functions that check a component against them.

One file per protocol, its laws in the tuple `LAWS`. To add a law: write a check that draws a case
and raises `Broken`, add a `Law` with its sentence and reason to `LAWS`, and add a component that
breaks it to the tests.
"""

from skipkv.testing.laws.evictor import check_evictor
from skipkv.testing.laws.law import Case, ConformanceError, CounterExample, Law
from skipkv.testing.laws.policy import check_policy
from skipkv.testing.laws.protocols import laws_of
from skipkv.testing.laws.scheduler import check_scheduler
from skipkv.testing.laws.scorer import check_scorer
from skipkv.testing.laws.segmenter import check_segmenter, fed_in_pieces
from skipkv.testing.laws.statistic import check_statistic
from skipkv.testing.laws.steerer import check_steerer

__all__ = [
    "Case",
    "ConformanceError",
    "CounterExample",
    "Law",
    "check_evictor",
    "check_policy",
    "check_scheduler",
    "check_scorer",
    "check_segmenter",
    "check_statistic",
    "check_steerer",
    "fed_in_pieces",
    "laws_of",
]
