"""Problems of multiple choice: the choices shuffled with a seed, the answer a letter."""

import random
import string
from collections.abc import Mapping
from typing import Any

from skipkv.errors import InputError

INSTRUCTION = (
    "Please reason step by step, and put the letter of your final answer within \\boxed{}."
)
_RIGHT = "Correct Answer"
_WRONG = "Incorrect Answer {}"


def is_choice(row: Mapping[str, Any]) -> bool:
    """Whether a row has the fields of GPQA."""
    return _RIGHT in row


def lettered(row: Mapping[str, Any], place: str, *, seed: int, index: str) -> dict[str, str]:
    """A row of GPQA as a question with lettered choices, and the letter of the right one.

    Args:
        row: with `Question`, `Correct Answer`, and `Incorrect Answer 1` and so on.
        place: of the row, for messages.
        seed: of the order.
        index: of the problem; every problem has an order of its own.

    Raises:
        InputError: a field is missing or no text, or two choices are equal.

    Example:
        >>> row = {"Question": "2+2?", "Correct Answer": "4", "Incorrect Answer 1": "5"}
        >>> lettered(row, "file:1", seed=0, index="0")
        {'question': '2+2?\\n\\nA) 4\\nB) 5', 'answer': 'A'}
    """
    names = [_RIGHT]
    while _WRONG.format(len(names)) in row:
        names.append(_WRONG.format(len(names)))
    for name in ("Question", *names):
        if not isinstance(row.get(name), str) or not row[name].strip():
            raise InputError(f"{place}: the field {name!r} must be a text.")
    choices = [row[name].strip() for name in names]
    if len(choices) < 2 or len(set(choices)) < len(choices):
        raise InputError(f"{place}: a question needs two choices or more, all different.")
    order = list(choices)
    random.Random(f"{seed}/{index}").shuffle(order)
    listed = [f"{letter}) {text}" for letter, text in zip(string.ascii_uppercase, order)]  # noqa: B905
    answer = string.ascii_uppercase[order.index(choices[0])]
    return {"question": f"{row['Question'].strip()}\n\n" + "\n".join(listed), "answer": answer}
