"""Encodes problems as token ids, with the model's chat template."""

from typing import Any

import attrs

from skipkv.errors import InputError
from skipkv.evaluation.datasets import DataSet
from skipkv.runtime.requests.prompts import token_ids
from skipkv.runtime.text.thinking import TAGS, MarkedText, ThinkingMarks

LOST = 0.1
"""The largest share of a prompt's characters that its tokens may lose. A byte-level vocabulary
loses none. A vocabulary of words that loses more was made for other texts."""


@attrs.frozen(kw_only=True)
class Prompts:
    """The prompts of a data set.

    Args:
        ids: token ids of each problem's prompt.
        opened: whether the prompts begin the thinking.
        marks: how the model marks its thinking.
    """

    ids: tuple[tuple[int, ...], ...] = attrs.field(repr=lambda ids: f"<{len(ids)} prompts>")
    opened: bool
    marks: ThinkingMarks = TAGS


def encode(data: DataSet, tokenizer: Any) -> Prompts:
    """Encode a data set: question and instruction as a user's message.

    Args:
        data: the problems.
        tokenizer: the model's tokenizer; without a chat template the prompt is the plain text.

    Raises:
        InputError: the tokenizer does not know the words of a question, or its chat template fails.
    """
    chat = bool(getattr(tokenizer, "chat_template", None))
    ids = []
    for problem in data.problems:
        content = _content(problem.question, data.defaults.instruction)
        lost = lost_share(tokenizer, content)
        if lost > LOST:
            raise InputError(
                f"Problem {problem.id} of {data.name}: the model's tokenizer does not know "
                f"{lost:.0%} of its characters. The model was made for other texts; choose "
                "another --data or another --model."
            )
        prompt = [{"role": "user", "content": content}] if chat else content
        ids.append(tuple(token_ids(prompt, tokenizer, name=f"Problem {problem.id} of {data.name}")))
    marks = ThinkingMarks.of(tokenizer) or TAGS
    marked = MarkedText(tokenizer, marks)
    opened = all(marked.begun(own) == "thinking" for own in ids)
    return Prompts(ids=tuple(ids), opened=opened, marks=marks)


def _content(question: str, instruction: str) -> str:
    return f"{question}\n{instruction}" if instruction else question


def lost_share(tokenizer: Any, text: str) -> float:
    """The share of a text's characters that its tokens lose; 0 without unknown tokens."""
    unknown = getattr(tokenizer, "unk_token_id", None)
    if unknown is None or not text:
        return 0.0
    tokens = tokenizer(text, add_special_tokens=False)["input_ids"]
    if unknown not in tokens:
        return 0.0
    held = str(tokenizer.decode([token for token in tokens if token != unknown]))
    return max(0.0, 1 - len(held) / len(text))
