"""Batch schedulers decide which waiting requests enter the free slots.

One scheduler per file, named for it. To add one: write a frozen attrs class with
`admit(waiting, *, free, running)`, export it here, and test that no request is lost or taken twice.
"""

from skipkv.schedulers.fifo import Fifo
from skipkv.schedulers.protocol import BatchScheduler

__all__ = ["BatchScheduler", "Fifo"]
