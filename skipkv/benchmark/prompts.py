"""Prompts of one length for any tokenizer."""

import random
from typing import Any

from skipkv.errors import InputError
from skipkv.evaluation.prompts import LOST, lost_share

_PROSE = """\
A farmer has seven fields. Three of them lie by the river and are flooded every spring, two are on
the hill, and the rest border the road to the mill. He wants to sow wheat on every field that is
dry by the first week of April, and barley on the others, but he has seed for only four fields of
wheat.

Let me think about this step by step. First, I count the dry fields. The fields on the hill are
dry, and so are those by the road, which makes four. The seed is enough for four fields of wheat.
Wait, is the road lower than the river? Nothing is said about that, so I take the fields there to
be dry.

Alternatively, I could start from the flooded ones. Three of seven are flooded, and seven less
three is four, which agrees with the count above. So the farmer sows four fields of wheat and
three of barley, and no seed of wheat is left over. Let me check that again with the numbers
given.
"""


def prompts(tokenizer: Any, *, count: int, tokens: int, seed: int) -> tuple[tuple[int, ...], ...]:
    """`count` different prompts of exactly `tokens` tokens, the same for the same arguments.

    The text is prose about a small problem; every prompt begins at another word. A tokenizer that
    knows only the embedded model's problems gets those.

    Args:
        tokenizer: the model's tokenizer.
        count: number of prompts.
        tokens: length of each.
        seed: decides where they begin.

    Raises:
        InputError: the tokenizer knows neither text.
    """
    ids = _readable(tokenizer)
    drawn = random.Random(seed)
    starts = [drawn.randrange(len(ids)) for _ in range(count)]
    return tuple(tuple(ids[(start + i) % len(ids)] for i in range(tokens)) for start in starts)


def _readable(tokenizer: Any) -> list[int]:
    if lost_share(tokenizer, _PROSE) <= LOST:
        return list(tokenizer(_PROSE, add_special_tokens=False)["input_ids"])
    from skipkv import tiny

    questions = "\n".join(problem.question for problem in tiny.problems(20))
    if lost_share(tokenizer, questions) <= LOST:
        return list(tokenizer(questions, add_special_tokens=False)["input_ids"])
    raise InputError(
        "The model's tokenizer knows neither English nor the embedded model's problems. The "
        "benchmark has no prompts for it: take another model."
    )
