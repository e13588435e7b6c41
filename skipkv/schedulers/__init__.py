"""Batch schedulers decide which waiting requests enter the free slots.

One scheduler per file, named for it. To add one: write a frozen attrs class with
`admit(waiting, *, free, running)`, export it here, and test that no request is lost or taken twice.
"""

from skipkv.schedulers.continuous import Continuous
from skipkv.schedulers.length_grouped import LengthGrouped
from skipkv.schedulers.padding import padding_tokens
from skipkv.schedulers.protocol import BatchScheduler

__all__ = ["BatchScheduler", "Continuous", "LengthGrouped", "padding_tokens"]
