"""Telling that memory ran out, whatever the device calls it."""

import torch


def is_oom(error: BaseException) -> bool:
    """Whether an error says that memory ran out.

    Args:
        error: what was raised.

    Example:
        >>> is_oom(MemoryError()), is_oom(RuntimeError("DefaultCPUAllocator: not enough memory"))
        (True, True)
        >>> is_oom(ValueError("not enough memory"))
        False
    """
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    text = str(error).lower()
    return isinstance(error, RuntimeError) and (
        "can't allocate memory" in text or "not enough memory" in text or "out of memory" in text
    )
