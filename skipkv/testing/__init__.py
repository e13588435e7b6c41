"""Help for testing components: Hypothesis strategies for what the runtime hands to parts.

`skipkv.testing.strategies` needs the extra `skipkv[testing]`. To add a strategy: put it in
`strategies.py`, let it shrink to a small case one can read, and test that it is consistent.
"""

from skipkv.testing.fakes import toy_model, toy_tokenizer

__all__ = ["toy_model", "toy_tokenizer"]
