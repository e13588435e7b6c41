"""Evaluation: what eviction costs, measured on problems with known answers.

Start with `sweep.py`. To add a data set of the hub, add a line in `DEFAULTS` of `datasets.py`, its
place on the hub, and its file in the tests. A JSONL file works without any change.
"""

from skipkv.evaluation.candidates import Candidate
from skipkv.evaluation.cells import BudgetPoint, Cell
from skipkv.evaluation.datasets import DataSet, Defaults, load_dataset
from skipkv.evaluation.failures import Failure
from skipkv.evaluation.grading import grade
from skipkv.evaluation.intervals import Estimate
from skipkv.evaluation.problems import Problem
from skipkv.evaluation.records import Record
from skipkv.evaluation.shards import Shard, merge
from skipkv.evaluation.stored_padding import decode_with_stored_padding, stored_padding
from skipkv.evaluation.summary import Row, Summary
from skipkv.evaluation.sweep import Sweep, summarize
from skipkv.evaluation.tracing import trace_failures

__all__ = [
    "BudgetPoint",
    "Candidate",
    "Cell",
    "DataSet",
    "Defaults",
    "Estimate",
    "Failure",
    "Problem",
    "Record",
    "Row",
    "Shard",
    "Summary",
    "Sweep",
    "decode_with_stored_padding",
    "grade",
    "load_dataset",
    "merge",
    "stored_padding",
    "summarize",
    "trace_failures",
]
