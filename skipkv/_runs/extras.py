"""Optional dependencies: all looked for before any work is done."""

import importlib

from skipkv.errors import MissingExtraError


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
            raise MissingExtraError(
                f"This needs {module} of the extra `{extra}`: pip install 'skipkv[{extra}]'."
            ) from cause
