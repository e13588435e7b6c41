"""Steerers change the hidden state of one layer where a thought opens, so a model rambles less.

One steerer per file, named for it. To add one: write a frozen attrs class with `layer` and
`delta(hidden, context)`, export it here, and test that rows away from a delimiter get zero.
`calibration.py` makes their vectors from hidden states.
"""

from skipkv.steerers.adaptive import AdaptiveSteerer
from skipkv.steerers.additive import AdditiveSteerer
from skipkv.steerers.calibration import Calibration, calibrate
from skipkv.steerers.kind_sums import KindSums
from skipkv.steerers.no_steering import NoSteering
from skipkv.steerers.protocol import Steerer
from skipkv.steerers.separation import Separation
from skipkv.steerers.thought_states import ThoughtStates
from skipkv.steerers.vector import SteeringVector

__all__ = [
    "AdaptiveSteerer",
    "AdditiveSteerer",
    "Calibration",
    "KindSums",
    "NoSteering",
    "Separation",
    "Steerer",
    "SteeringVector",
    "ThoughtStates",
    "calibrate",
]
