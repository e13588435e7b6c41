r"""The rambling reasoner: it is sampled, errs at times, and checks steps until two results agree.

`load()` gives the model and its tokenizer, and `problems(count)` gives problems it can solve. It
was made by `python -m skipkv.tiny.rambler.training`. README.md in `weights/` is its model card.
"""

from skipkv.tiny.rambler.embedded import load
from skipkv.tiny.rambler.problem import problems

__all__ = ["load", "problems"]
