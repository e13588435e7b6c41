"""Grading answers with math-verify."""

import functools
import multiprocessing
import threading
from typing import Any

from skipkv._runs import require_extra

_SECONDS = 5
# What a model boxes is mostly short; sympy may take for ever over what is not.
_LONGEST = 1000


def grade(answer: str | None, gold: str) -> bool:
    r"""Whether an answer says the same as the known one, in whatever form.

    math-verify parses both as LaTeX and compares them as mathematics. It stops what takes too long
    by an alarm signal, which only a program's main thread may set; elsewhere the comparison is made
    in a process of its own, and ended with it. What cannot be judged in time is wrong.

    Args:
        answer: what the model boxed; None (no answer) is wrong.
        gold: the known answer.

    Raises:
        MissingExtraError: math-verify is not installed (the extra `eval`).

    Example:
        >>> grade(r"\frac{2}{4}", "0.5"), grade("5", "x=5"), grade("6", "5"), grade(None, "5")
        (True, True, False, False)
    """
    if answer is None or not answer.strip() or len(answer) > _LONGEST:
        return False
    if answer.strip() == gold.strip():
        return True
    require_grader()
    if threading.current_thread() is threading.main_thread():
        return equal(answer, gold)
    context = multiprocessing.get_context("spawn")
    with context.Pool(1) as pool:
        try:
            return bool(pool.apply_async(equal, (answer, gold)).get(timeout=12 * _SECONDS))
        except multiprocessing.TimeoutError:
            return False


def require_grader() -> None:
    """Raise `MissingExtraError` unless math-verify is there."""
    require_extra("eval", "math_verify")


def equal(answer: str, gold: str) -> bool:
    """math-verify's judgement; for the main thread of a process."""
    from math_verify import verify

    # not symmetric: the known answer comes first
    return bool(verify(_parsed(gold), _parsed(answer), timeout_seconds=_SECONDS))


@functools.lru_cache(maxsize=4096)  # each known answer is compared with once per cell
def _parsed(answer: str) -> Any:
    from math_verify import parse

    return parse(rf"\boxed{{{answer}}}", parsing_timeout=_SECONDS)
