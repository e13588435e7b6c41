"""Where a model goes, and in which numbers: checked before anything is loaded."""

import torch

from skipkv.errors import InputError


def check_dtype(dtype: str | torch.dtype) -> None:
    """Raise `InputError` for a dtype that torch does not have, or that holds no weights."""
    known = getattr(torch, dtype, None) if isinstance(dtype, str) else dtype
    if dtype == "auto" or (isinstance(known, torch.dtype) and known.is_floating_point):
        return
    raise InputError(
        f"dtype {dtype} is none of torch's for weights. Use auto, float32, bfloat16, float16."
    )


def find_device(device: str | torch.device | None) -> torch.device:
    """The device asked for, once a tensor has been made there; by default a GPU if there is one.

    Raises:
        InputError: torch knows no such device, or has none here.
    """
    if device is None:
        device = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        found = torch.device(device)
    except (RuntimeError, TypeError) as error:
        raise InputError(f"device {device} is no device. Use cpu, cuda or cuda:0.") from error
    if found.type == "cuda" and not torch.cuda.is_available():
        raise InputError(f"device {device}: torch finds no GPU here. Use cpu.")
    if found.type == "meta":
        raise InputError("device meta holds no numbers. Use cpu, cuda or cuda:0.")
    try:
        torch.empty(1, device=found)
    except Exception as error:  # every backend has errors of its own
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise InputError(f"device {device} cannot be used here: {reason}") from error
    return found
