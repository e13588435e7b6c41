"""Numbers learned of one model: their tensors, which model it was, and their files."""

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from skipkv.errors import ConfigError, InputError

T = TypeVar("T")
IMPRINT = "imprint"


class Copies(dict[torch.device, T]):
    """Copies of tensors by device, so that a decode step waits for no transfer.

    What is copied or pickled goes without them.
    """

    def __reduce__(self) -> tuple[type, tuple[()]]:
        return Copies, ()


def own(value: Any) -> Any:
    """A float32 copy of a tensor of floats, on the host; anything else as it is.

    Args:
        value: of a field whose validator refuses anything else.
    """
    if not isinstance(value, Tensor) or not value.is_floating_point():
        return value
    return value.detach().to("cpu", torch.float32, copy=True).contiguous()


def same(first: Tensor | None, second: Tensor | None) -> bool:
    """Whether two tensors are equal, or both missing.

    Args:
        first: a tensor or None.
        second: likewise.
    """
    if first is None or second is None:
        return first is second
    return torch.equal(first, second)


def write_tensors(
    path: str | os.PathLike[str],
    what: str,
    tensors: Mapping[str, Tensor],
    about: Mapping[str, str],
    imprint: tuple[float, ...] | None,
) -> None:
    """Write a safetensors file.

    Args:
        path: where to write.
        what: what it holds, such as "write gate".
        tensors: by name.
        about: further metadata.
        imprint: of the model, as in `ModelShape`.

    Raises:
        InputError: the file cannot be written.
    """
    try:
        held = dict(tensors) if imprint is None else {**tensors, IMPRINT: torch.tensor(imprint)}
        save_file(held, path, metadata={"format": f"skipkv {what}", **about})
    except (OSError, SafetensorError) as cause:
        raise InputError(f"The {what} cannot be written to {str(path)!r}: {cause}") from cause


def read_tensors(
    path: str | os.PathLike[str], what: str, needed: set[str], *, hint: str = ""
) -> tuple[dict[str, Tensor], dict[str, str], tuple[float, ...] | None]:
    """The tensors, the metadata and the imprint of a file that `write_tensors` wrote.

    Args:
        path: the file.
        what: what it must hold.
        needed: names of tensors that must be in it.
        hint: what to do with a file of another format, for the error.

    Raises:
        InputError: no such file, or a file of another kind.
    """
    name = str(path)
    if not Path(name).is_file():
        raise InputError(f"No {what} at {name!r}: there is no such file.")
    try:
        with safe_open(name, framework="pt") as file:
            about = dict(file.metadata() or {})
            # looked at before the tensors are read: it may be a model, and large
            if about.get("format") == f"skipkv {what}" and needed <= {*file.keys()}:
                tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
                imprint = tensors.pop(IMPRINT, None)
                return tensors, about, None if imprint is None else tuple(imprint.tolist())
    except (OSError, SafetensorError) as cause:
        raise InputError(f"{name!r} is not a safetensors file: {cause}.{hint}") from cause
    raise InputError(
        f"{name!r} is a safetensors file, but holds no {what} of skipkv: its metadata must say "
        f"format='skipkv {what}', and it must hold {', '.join(sorted(needed))}. Build one of its "
        "tensors, and save that."
    )


def naming(path: str | os.PathLike[str], make: Callable[[], T]) -> T:
    """What a file's contents make; an error about them names the file.

    Args:
        path: the file.
        make: makes it of the contents.

    Raises:
        InputError: they do not fit together.
    """
    try:
        return make()
    except ConfigError as cause:
        raise InputError(f"{str(path)!r} cannot be used: {cause}") from cause
