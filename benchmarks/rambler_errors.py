"""What wrong traces of the rambling reasoner die of."""

import re

from skipkv.tiny import Definition, Problem

KINDS = ("right", "slip", "stale", "value", "definition", "never told", "answer", "no end")
"""The answer is right; or the first name that goes wrong for good does so because its sum is wrong
though what it uses is right, because it was not done anew when what it uses was corrected, because
a value was cited that is not the one told last, or none was, because its definition was not the
question's, or because it never was worked out; or the answer is not what its own values say; or the
trace has no answer."""

_TOLD = re.compile(r"([a-z])=(\d)$")
_CITED = re.compile(r"([a-z])=(\d)")
_DEFINED = re.compile(r"\b([a-z]):([a-z0-9+-]+)")


def kind_of(problem: Problem, text: str) -> str:
    """Why a trace is wrong, one of `KINDS`.

    A name goes wrong for good where its value told last is not its value. Of the names that the
    answer needs the first one in the order of the definitions decides.

    Args:
        problem: what was asked.
        text: what was decoded.
    """
    thinking, _, rest = text.partition("</think>")
    boxed = re.findall(r"\\boxed\{(\d+)\}", rest)
    if not boxed:
        return "no end"
    if boxed[-1] == problem.answer:
        return "right"
    told: dict[str, str] = {}
    why: dict[str, str] = {}
    for thought in thinking.split(".\n\n"):
        defined, result = _DEFINED.search(thought), _TOLD.search(thought)
        if defined is None or result is None or defined[1] != result[1]:
            continue
        name = result[1]
        cited = _CITED.findall(thought[: result.start()])
        needs = _operands(problem, name) if name in problem.definitions else set()
        if defined[2] != str(problem.definitions.get(name)):
            why[name] = "definition"
        elif any(told.get(operand) != value for operand, value in cited) or needs - {*dict(cited)}:
            why[name] = "value"
        else:
            right = _sum(problem.definitions[name], dict(cited)) == result[2]
            why[name] = "stale" if right else "slip"
        told[name] = result[2]
    for name in _needed(problem):
        if name not in told:
            return "never told"
        if told[name] != str(problem.values[name]):
            return why[name]
    return "answer"


def _sum(definition: Definition, values: dict[str, str]) -> str:
    """A definition's digit, from the digits of names."""
    left, right = (
        int(values.get(part, part)) if part else 0 for part in (definition.left, definition.right)
    )
    return str((left - right if definition.operator == "-" else left + right) % 10)


def _operands(problem: Problem, name: str) -> set[str]:
    """The names that a definition uses."""
    definition = problem.definitions[name]
    return {definition.left, definition.right} & set(problem.definitions)


def _needed(problem: Problem) -> list[str]:
    """The names that the answer depends on, in the order of the definitions."""
    needed = set(problem.asked)
    for name in reversed(list(problem.definitions)):
        if name in needed:
            needed |= _operands(problem, name)
    return [name for name in problem.definitions if name in needed]
