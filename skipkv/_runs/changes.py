"""In which arguments two compositions differ, by their reprs."""

import ast
from collections.abc import Iterator


def changed(then: str, now: str) -> str:
    """What differs between two reprs, in words; both in full if they are no Python.

    Args:
        then: a repr.
        now: another one.

    Example:
        >>> changed("Mine(scorer=A(b=1), c=2)", "Mine(scorer=A(b=3, d=4), c=2)")
        'A(b=) was 1 and is 3; A has gained d=4'
    """
    try:
        trees = [ast.parse(text, mode="eval").body for text in (then, now)]
        found = list(_changes(*trees, at="it"))
    except (SyntaxError, ValueError, RecursionError):
        found = []
    return "; ".join(found) or f"it was {then} and is {now}"


def _changes(then: ast.expr, now: ast.expr, *, at: str) -> Iterator[str]:
    if ast.dump(then) == ast.dump(now):
        return
    if isinstance(then, ast.BinOp) and isinstance(now, ast.BinOp) and _alike(then.op, now.op):
        yield from _changes(then.left, now.left, at=at)
        yield from _changes(then.right, now.right, at=at)
    elif isinstance(then, ast.Call) and isinstance(now, ast.Call) and _alike(then.func, now.func):
        name = ast.unparse(now.func)
        before, after = _arguments(then), _arguments(now)
        for key in {**before, **after}:
            if key not in after:
                yield f"{name} has lost {key}={ast.unparse(before[key])}"
            elif key not in before:
                yield f"{name} has gained {key}={ast.unparse(after[key])}"
            else:
                yield from _changes(before[key], after[key], at=f"{name}({key}=)")
    else:
        yield f"{at} was {ast.unparse(then)} and is {ast.unparse(now)}"


def _alike(one: ast.AST, other: ast.AST) -> bool:
    return ast.dump(one) == ast.dump(other)


def _arguments(call: ast.Call) -> dict[str, ast.expr]:
    """The arguments of a call, those without a name by their place."""
    places = {f"argument {place}": value for place, value in enumerate(call.args, start=1)}
    return places | {str(keyword.arg): keyword.value for keyword in call.keywords}
