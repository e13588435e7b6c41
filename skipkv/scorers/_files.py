"""Files of learned numbers: tensors, and a few texts that say what they are."""

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TypeVar

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from skipkv.errors import ConfigError, InputError

T = TypeVar("T")


def save(
    path: str | os.PathLike[str], what: str, tensors: Mapping[str, Tensor], about: Mapping[str, str]
) -> None:
    """Write a safetensors file.

    Args:
        path: where to write.
        what: what it holds, such as "write gate".
        tensors: by name.
        about: further metadata.

    Raises:
        InputError: the file cannot be written.
    """
    try:
        save_file(dict(tensors), path, metadata={"format": f"skipkv {what}", **about})
    except (OSError, SafetensorError) as cause:
        raise InputError(f"The {what} cannot be written to {str(path)!r}: {cause}") from cause


def load(
    path: str | os.PathLike[str], what: str, needed: set[str]
) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The tensors and the metadata of a file that `save` wrote.

    Args:
        path: the file.
        what: what it must hold.
        needed: names of tensors that must be in it.

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
                return {key: file.get_tensor(key) for key in file.keys()}, about  # noqa: SIM118
    except (OSError, SafetensorError) as cause:
        raise InputError(f"{name!r} is not a safetensors file: {cause}.") from cause
    raise InputError(
        f"{name!r} is a safetensors file, but holds no {what} of skipkv: its metadata must say "
        f"format='skipkv {what}', and it must hold the tensors {', '.join(sorted(needed))}."
    )


def named(path: str | os.PathLike[str], make: Callable[[], T]) -> T:
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
