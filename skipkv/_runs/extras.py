"""Checks that optional dependencies are installed, made before any work is done."""

import importlib

from skipkv.errors import MissingExtraError

_PURPOSES = {
    "datasets": "data sets from the model hub",
    "math_verify": "grading answers",
    "matplotlib": "plots",
    "pandas": "data frames",
    "ray": "decoding in many workers",
    "scipy": "confidence intervals",
    "starlette": "the HTTP server",
    "uvicorn": "the HTTP server",
}


def require_extra(extra: str, *modules: str) -> None:
    """Raise unless these modules can be imported.

    Args:
        extra: the extra of skipkv that brings them.
        modules: names to import.

    Raises:
        MissingExtraError: one is missing; the message has the command that installs it.
    """
    for module in modules:
        try:
            importlib.import_module(module)
        except ImportError as cause:
            purpose = f", for {_PURPOSES[module]}," if module in _PURPOSES else ""
            raise MissingExtraError(
                f"{module}{purpose} is not installed. It comes with the extra `{extra}`: "
                f"pip install 'skipkv[{extra}]'."
            ) from cause
