"""Calibration of steering vectors on a model: traces, the thoughts in them, their hidden states.

`run.py` is the way in; each other file is one step of it. What is made of the states, with no model
in sight, is in `skipkv/steerers/calibration.py`. To add a step: give it a file, and store what it
costs much to make in the workspace, so that a run that was stopped goes on where it was.
"""

from skipkv.calibration.run import Settings, collect
from skipkv.calibration.traces import Trace

__all__ = ["Settings", "Trace", "collect"]
