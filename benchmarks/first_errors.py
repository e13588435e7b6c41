"""What a trace of the embedded model gets wrong first: the answer to what was evicted."""

import re
from collections.abc import Sequence

from skipkv.tiny import Problem

KINDS = ("definition", "value", "sum", "step", "answer", "none")
"""Copied a wrong definition; a wrong value of an operand; added wrongly; left out or repeated a
step; gave another answer than its own values say, or none; nothing (the answer is right)."""

_STEP = re.compile(r"([a-z]):([a-z0-9+-]+)[.,] (?:(.*), )?so ([a-z])=(\d)$")


def first_error(problem: Problem, text: str) -> str:
    """The kind of the first thing that is wrong in a trace.

    Args:
        problem: what was asked.
        text: what was decoded.
    """
    values = {name: str(value) for name, value in problem.values.items()}
    names = iter(problem.definitions)
    thinking, _, rest = text.partition("</think>")
    for thought in thinking.split(".\n\n"):
        found = _STEP.search(thought)
        if found is None:
            continue
        name, definition, work = found[1], found[2], found[3] or ""
        if thought.startswith(name) and name != next(names, ""):
            return "step"
        if name not in values or definition != str(problem.definitions[name]):
            return "definition"
        used = re.findall(r"([a-z])=(\d)", work)
        if any(values.get(operand) != digit for operand, digit in used):
            return "value"
        if values[name] != found[5]:
            return "sum"
    if next(names, None) is not None:
        return "step"
    boxed = re.findall(r"\\boxed\{(\d+)\}", rest)
    return "none" if boxed[-1:] == [problem.answer] else "answer"


def table(cells: dict[str, Sequence[tuple[Problem, str]]]) -> str:
    """For each cell the share of its traces by the first thing wrong, in Markdown.

    Args:
        cells: label -> problems and what was decoded for them.
    """
    lines = [f"| % of traces | {' | '.join(KINDS)} |", "|---|" + "--:|" * len(KINDS)]
    for label, traces in cells.items():
        found = [first_error(problem, text) for problem, text in traces]
        shares = (f"{100 * found.count(kind) / len(found):.1f}" for kind in KINDS)
        lines.append(f"| {label} | {' | '.join(shares)} |")
    return "\n".join(lines)
