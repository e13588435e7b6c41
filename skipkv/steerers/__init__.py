"""Steerers nudge the hidden state of one layer at sentence delimiters, so a model rambles less.

One steerer per file, named for it. To add one: write a frozen attrs class with `layer` and
`delta(hidden, context)`, export it here, and test that rows away from a delimiter get zero.
"""

from skipkv.steerers.no_steering import NoSteering
from skipkv.steerers.protocol import Steerer

__all__ = ["NoSteering", "Steerer"]
