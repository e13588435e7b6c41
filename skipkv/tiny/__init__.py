r"""The embedded reasoners: chain-of-thought models small enough to come with the package.

`tiny` decodes greedily and hardly errs. `load()` gives the model and its tokenizer, and
`problems(count)` gives problems it can solve. It was made by `python -m skipkv.tiny.training`.
README.md in `weights/` is its model card. `skipkv.tiny.rambler` is the other one: it is sampled,
errs and checks itself. To add one, add its folder to `EMBEDDED` in `models/loading.py` and its
problems to `family.py`.
"""

from skipkv.tiny import rambler
from skipkv.tiny.embedded import load
from skipkv.tiny.family import problems_of
from skipkv.tiny.problem import Definition, Problem, problems

__all__ = ["Definition", "Problem", "load", "problems", "problems_of", "rambler"]
