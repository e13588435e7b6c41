"""Models and tokenizers: loads both by name, ready to decode.

Start with `loading.py`; `architecture.py` is what the runtime reads in a config. A family that
follows transformers' conventions needs no code: add its name in `families.py` once a test passes.
"""

from skipkv.models.families import FAMILIES
from skipkv.models.imprint import imprint_of
from skipkv.models.loading import load
from skipkv.models.random_weights import random_model, synthetic_tokenizer

__all__ = ["FAMILIES", "imprint_of", "load", "random_model", "synthetic_tokenizer"]
