"""Calibration on a model: its traces, the states of thoughts in them, queries, and similarities.

Start with `run.py`; each other file is one step of it. The vector is computed from the states in
`skipkv/steerers/calibration.py`, without a model. To add a step, give it a file, and store its
expensive results in the workspace, so that a stopped run can resume.
"""

from skipkv.calibration.queries import QuerySums
from skipkv.calibration.restating import restates
from skipkv.calibration.run import Settings, collect
from skipkv.calibration.similarities import SentencePairs, TraceSimilarities
from skipkv.calibration.threshold import RepeatThreshold
from skipkv.calibration.traces import Trace

__all__ = [
    "QuerySums",
    "RepeatThreshold",
    "SentencePairs",
    "Settings",
    "Trace",
    "TraceSimilarities",
    "collect",
    "restates",
]
