"""The benchmark: the cost of decoding under a policy, compared with full caches and a bare loop.

Start with `bench.py`. To add a baseline: a class in `subjects.py` that conforms to `Subject`, its
name in `BASELINES`, and a line in `baselines_of`.
"""

from skipkv.benchmark.bench import Bench
from skipkv.benchmark.case import Case, Job
from skipkv.benchmark.crossover import crossover
from skipkv.benchmark.measurement import Measurement
from skipkv.benchmark.spread import Spread
from skipkv.benchmark.subjects import BASELINES, Subject, baselines_of, policies_of
from skipkv.benchmark.summary import Row, Summary

__all__ = [
    "BASELINES",
    "Bench",
    "Case",
    "Job",
    "Measurement",
    "Row",
    "Spread",
    "Subject",
    "Summary",
    "baselines_of",
    "crossover",
    "policies_of",
]
