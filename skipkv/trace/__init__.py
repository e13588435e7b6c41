"""Functions that read the trace of a completion: what a policy kept of a text.

`Engine.generate(..., trace=True)` records traces. To add a function, give it a file; it takes the
engine and a completion.
"""

from skipkv.trace.survival import survival

__all__ = ["survival"]
