"""Write the tables of presets in README.md and docs/choosing.md: `make tables`.

What they say is found in the presets: in their docstrings, their budgets and what they need. So a
new preset is in both tables when this has run.
"""

import inspect
import re
from pathlib import Path

from pages import DOCS, insert

from skipkv import presets
from skipkv.cli.policies import EXAMPLE_BUDGET, costs, example

README, CHOOSING = DOCS.parent / "README.md", DOCS / "choosing.md"


def told(name: str) -> tuple[str, str, str]:
    """A preset's method, what it keeps, and its paper: from its docstring."""
    docstring = inspect.getdoc(presets.get(name)) or ""
    method, _, keeps = docstring.partition("\n")[0].removesuffix(".").partition(": ")
    paper = re.search(r"\bSource:[^\n]*(?:\n(?!\n)[^\n]*)*?(arXiv \d{4}\.\d{5})", docstring)
    return method, keeps, "" if paper is None else paper[1]


def presets_table() -> str:
    """What each preset keeps, and its paper."""
    rows = [f"| `{name}` | {' | '.join(told(name))} |" for name in presets.NAMES]
    return "\n".join(["| preset | method | keeps | source |", "|---|---|---|---|", *rows])


def needs_table() -> str:
    """What each preset keeps always, and what is recorded for it."""
    rows = [f"| `{name}` | {always(name)} | {recorded(name)} |" for name in presets.NAMES]
    heads = ["| preset | always kept | recorded beside keys and values |", "|---|---|---|"]
    return "\n".join([*heads, *rows])


def always(name: str) -> str:
    """What a preset's budget protects."""
    budget = example(presets.get(name)).budget
    if budget is None:
        return "everything"
    newest = f"the newest {budget.window}"
    if 2 * budget.window == budget.tokens:
        newest = f"the newest {100 * budget.window // EXAMPLE_BUDGET} % of the budget"
    first = [f"the first {budget.sinks}"] if budget.sinks else []
    return ", ".join([newest, *first, *(["the prompt"] if budget.prompt else [])])


def recorded(name: str) -> str:
    """What is recorded while it decodes, and what that takes."""
    return "; ".join(costs(example(presets.get(name))))


def write(readme: Path = README, choosing: Path = CHOOSING) -> None:
    """Put the tables into these pages."""
    insert(readme, "presets", presets_table())
    insert(choosing, "needs", needs_table())


if __name__ == "__main__":
    write()
