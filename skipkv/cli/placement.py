"""Checking `--dtype` and `--device` before a model is loaded."""

from skipkv.errors import InputError


def check_placement(dtype: str, device: str | None) -> None:
    """Raise `InputError` for a dtype or a device that torch does not have."""
    import torch

    if dtype != "auto" and not isinstance(getattr(torch, dtype, None), torch.dtype):
        raise InputError(
            f"--dtype {dtype} is not a dtype of torch. Use auto, float32, bfloat16 or float16."
        )
    if device is None:
        return
    try:
        kind = torch.device(device).type
    except RuntimeError as error:
        raise InputError(
            f"--device {device} is not a device of torch. Use cpu, cuda or cuda:0."
        ) from error
    if kind == "cuda" and not torch.cuda.is_available():
        raise InputError(f"--device {device}: torch finds no GPU here. Use --device cpu.")
