"""Checking `--dtype` and `--device` before a model is loaded."""


def check_placement(dtype: str, device: str | None) -> None:
    """Raise `InputError` for a dtype or a device that torch would stumble over after loading."""
    from skipkv.models.placement import check_dtype, find_device

    check_dtype(dtype)
    find_device(device)
