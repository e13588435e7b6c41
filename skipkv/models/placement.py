"""The device and dtype of a model, checked before it is loaded."""

import torch

from skipkv.errors import InputError


def check_dtype(dtype: str | torch.dtype) -> None:
    """Raise `InputError` for a dtype that torch does not have, or that holds no weights."""
    known = getattr(torch, dtype, None) if isinstance(dtype, str) else dtype
    if dtype == "auto" or (isinstance(known, torch.dtype) and known.is_floating_point):
        return
    raise InputError(
        f"dtype {dtype} is not a torch dtype for weights. Use auto, float32, bfloat16 or float16."
    )


def find_device(device: str | torch.device | None) -> torch.device:
    """The requested device, after a tensor has been made on it; by default a GPU if there is one.

    Raises:
        InputError: torch does not know the device, or cannot use it here.
    """
    if device is None:
        device = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        found = torch.device(device)
    except (RuntimeError, TypeError) as error:
        raise InputError(f"device {device} is unknown. Use cpu, cuda or cuda:0.") from error
    if found.type == "cuda" and not torch.cuda.is_available():
        raise InputError(f"device {device}: torch finds no GPU here. Use cpu.")
    if found.type == "meta":
        raise InputError("device meta stores no numbers. Use cpu, cuda or cuda:0.")
    try:
        torch.empty(1, device=found)
    except Exception as error:  # each backend has its own errors
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise InputError(f"device {device} cannot be used here: {reason}") from error
    return found
