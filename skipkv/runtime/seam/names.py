"""Names that depend on transformers' version, and the versions that were tested."""

import inspect
import warnings

import torch
import transformers

from skipkv.errors import SkipKVWarning, UnsupportedModelError

OLDEST, NEWEST = "5.0.0", "5.24.0"
"""The range of transformers' versions that the tests run with."""
CACHE_NAMES = ("cache", "past_key_values")
"""The names that models give to their cache argument, the newest first."""


def cache_name(model: torch.nn.Module) -> str:
    """The name of the argument by which a model takes its cache.

    `cache` from transformers 5.24 on, `past_key_values` before.

    Raises:
        UnsupportedModelError: the model's forward takes neither.
    """
    taken = inspect.signature(type(model).forward).parameters
    for name in CACHE_NAMES:
        if name in taken:
            return name
    raise UnsupportedModelError(
        f"{type(model).__name__}.forward takes no cache ({' or '.join(CACHE_NAMES)}). {versions()}"
    )


def versions(installed: str = transformers.__version__) -> str:
    """What is installed and what was tested, for messages.

    Args:
        installed: the version of transformers.
    """
    return (
        f"This is transformers {installed} with torch {torch.__version__}; skipkv "
        f"was tested with transformers {OLDEST} to {NEWEST}."
    )


_warned: set[str] = set()


def check_version(installed: str = transformers.__version__) -> None:
    """Warn once if transformers is newer than the versions the tests run with.

    Args:
        installed: the version of transformers.
    """
    if installed in _warned or _release(installed) <= _release(NEWEST):
        return
    _warned.add(installed)
    warnings.warn(
        f"{versions(installed)} skipkv checks every pass: a difference raises an error instead of "
        "decoding without the policy.",
        SkipKVWarning,
        stacklevel=3,
    )


def _release(version: str) -> tuple[int, ...]:
    """The leading numbers of a version.

    Example:
        >>> _release("5.24.0.dev0")
        (5, 24, 0)
    """
    numbers = []
    for part in version.split("+")[0].split("."):
        if not part.isdigit():
            break
        numbers.append(int(part))
    return tuple(numbers)
