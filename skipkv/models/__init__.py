"""Models and tokenizers: loads both by name, ready to decode.

Start with `loading.py`. To support another architecture, add its name in `families.py` after the
runtime's tests pass with it.
"""

from skipkv.models.families import FAMILIES
from skipkv.models.loading import load
from skipkv.models.random_weights import random_model, synthetic_tokenizer

__all__ = ["FAMILIES", "load", "random_model", "synthetic_tokenizer"]
