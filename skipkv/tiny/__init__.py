r"""The embedded reasoner: a chain-of-thought model small enough to come with the package.

`load()` gives the model and its tokenizer, and `problems(count)` gives problems it can solve. It
was made by `python -m skipkv.tiny.training`. README.md in `weights/` is its model card.
"""

from skipkv.tiny.embedded import load
from skipkv.tiny.problem import Definition, Problem, problems

__all__ = ["Definition", "Problem", "load", "problems"]
