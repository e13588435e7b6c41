"""Grades answers with math-verify."""

import functools
import multiprocessing
import re
import threading
import unicodedata
from typing import Any

from skipkv._runs import require_extra

LONGEST = 1000
"""Characters of an answer; longer ones count as wrong. sympy may take for ever on them."""
_SECONDS = 5
_LETTER = re.compile("[A-J]")
# "B", "(B)", "B)", "B.", "B) 5 m", and the same in \text{...}
_CHOSEN = re.compile(r"(?:\\text\w*\{)?\s*\(?([A-J])(?:\)|\.|:)?(?:(?<=[).:]).*)?\}?", re.DOTALL)


def grade(answer: str | None, gold: str) -> bool:
    r"""Whether an answer equals the known one, in any form.

    math-verify parses both as LaTeX and compares them as mathematics. It ends a long comparison
    with an alarm signal, which only the main thread may set. In other threads the comparison runs
    in a process of its own, which is ended after the same time. An answer without a result in time
    is wrong.

    Args:
        answer: what the model boxed; None (no answer) is wrong.
        gold: the known answer.

    Raises:
        MissingExtraError: math-verify is not installed (the extra `eval`).

    Example:
        >>> grade(r"\frac{2}{4}", "0.5"), grade("5", "x=5"), grade("6", "5"), grade(None, "5")
        (True, True, False, False)
    """
    if answer is None or not answer.strip() or len(answer) > LONGEST:
        return False
    if answer.strip() == gold.strip():
        return True
    if _LETTER.fullmatch(gold):  # of multiple choice
        chosen = _CHOSEN.fullmatch(answer.strip())
        if chosen is not None and chosen[1] == gold:
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
    """Raise `MissingExtraError` unless math-verify is installed."""
    require_extra("eval", "math_verify")


def equal(answer: str, gold: str) -> bool:
    """The result of math-verify; call it in the main thread of a process."""
    from math_verify import verify

    # not symmetric: the known answer comes first
    return bool(verify(_parsed(gold), _parsed(answer), timeout_seconds=_SECONDS))


@functools.lru_cache(maxsize=4096)  # each known answer is used once per cell
def _parsed(answer: str) -> Any:
    from math_verify import parse

    return parse(rf"\boxed{{{_latex(answer)}}}", parsing_timeout=_SECONDS)


# Spellings of numbers that math-verify reads as something else, or not at all.
_SPACE = r"(?:\\[,;: ]|[~ ])"
_THOUSANDS = re.compile(rf"(?<![\d.,])[1-9]\d{{0,2}}(?:{_SPACE}\d{{3}})+(?![\d/])")
_MIXED = re.compile(rf"(?<![\d.,/])(\d+){_SPACE}(\d+)/(\d+)(?![\d.])")
_EXPONENT = re.compile(r"([-+]?\d+(?:\.\d*)?)[eE]([-+]?\d{1,3})")
_FRACTION = re.compile("[\u00bc-\u00be\u2150-\u215e]")
_POWER = re.compile("[\u00b2\u00b3\u00b9\u2070\u2074-\u2079]+")


def _latex(answer: str) -> str:
    r"""The same answer without a final full stop, and with its numbers in LaTeX.

    Example:
        >>> [_latex(number) for number in (r"1\,000.", "1.5e3", "2\u00bd", "1 1/2", "5\u00b2")]
        ['1000', '1.5 \\cdot 10^{3}', '2\\frac{1}{2}', '1\\frac{1}{2}', '5^{2}']
    """
    text = re.sub(r"(?<=[^.\\])\.$", "", answer.strip())
    if (number := _EXPONENT.fullmatch(text)) is not None:
        return rf"{number[1]} \cdot 10^{{{int(number[2])}}}"
    text = _FRACTION.sub(_written_out, text)
    text = _POWER.sub(lambda power: f"^{{{_plain(power[0])}}}", text)
    text = _plain(text).replace("\u00b0", r"^\circ")
    text = _THOUSANDS.sub(lambda number: re.sub(_SPACE, "", number[0]), text)
    return _MIXED.sub(r"\1\\frac{\2}{\3}", text)


def _written_out(character: re.Match[str]) -> str:
    above, _, below = _plain(character[0]).partition("\u2044")
    return rf"\frac{{{above}}}{{{below}}}"


def _plain(text: str) -> str:
    """The text with plain digits, letters and spaces in the place of their variants."""
    return unicodedata.normalize("NFKC", text)
