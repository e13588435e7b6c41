"""What every component of a protocol must make true, as values; and the checks that hold it to.

One file per protocol, its laws in the tuple `LAWS`. To add a law: a check that draws a case and
raises `Broken`, its sentence and its reason in `LAWS`, and a broken component in the tests.
"""

from skipkv.testing.laws.evictor import check_evictor
from skipkv.testing.laws.law import Case, ConformanceError, CounterExample, Law
from skipkv.testing.laws.policy import check_policy
from skipkv.testing.laws.protocols import laws_of
from skipkv.testing.laws.scheduler import check_scheduler
from skipkv.testing.laws.scorer import check_scorer
from skipkv.testing.laws.segmenter import check_segmenter, fed_in_pieces
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
    "check_steerer",
    "fed_in_pieces",
    "laws_of",
]
