"""Help for testing components: Hypothesis strategies for what the runtime hands to parts.

A toy model and tokenizer in stock transformers classes; `strategies` and `streams` for Hypothesis,
which need the extra `skipkv[testing]`. To add a strategy: put it in
`strategies.py`, let it shrink to a small case one can read, and test that it is consistent.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from skipkv.testing.fakes import toy_model, toy_tokenizer

__all__ = ["toy_model", "toy_tokenizer"]


def __getattr__(name: str) -> Any:
    """The toys, imported when first asked for: they bring in transformers' models."""
    if name in __all__:
        from skipkv.testing import fakes

        return getattr(fakes, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
