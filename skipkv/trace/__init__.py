"""What a policy kept: traces of completions, read back into text.

`Engine.generate(..., trace=True)` records them. A member is one function of a completion and what
its text is read with.
"""

from skipkv.trace.survival import survival

__all__ = ["survival"]
