"""Turns prompts of every accepted kind into token ids; refuses others with an error that helps."""

import operator
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, TypeAlias

import attrs
import numpy as np
from jaxtyping import Int
from torch import Tensor

from skipkv._validators import is_a, kind_of
from skipkv.errors import InputError
from skipkv.runtime.requests.sampling import Sampling

Content: TypeAlias = (
    str | Sequence[int] | Sequence[Mapping[str, Any]] | Mapping[str, Any] | Int[Tensor, "*one T"]
)
"""One prompt: a text, token ids, a chat (messages), or a tokenizer's output for one text."""

_TEMPLATE_OPTIONS = {"tokenize", "add_generation_prompt", "conversation"}
# Arguments of transformers' call that say how to tokenize, which it is not asked for: no template
# sees them, and they would do nothing.
_TOKENIZING = {
    "padding",
    "truncation",
    "max_length",
    "return_tensors",
    "return_dict",
    "return_assistant_tokens_mask",
    "tokenizer_kwargs",
}
_KINDS = "a text, a list of token ids, or a chat (a list of messages)"


def stop_strings(value: Any) -> tuple[str, ...]:
    """Stop strings as a tuple; a single string counts as one stop string.

    Raises:
        InputError: a stop string is empty, or not a string.
    """
    strings = (value,) if isinstance(value, str) else value
    if not isinstance(strings, Iterable) or isinstance(strings, bytes | Mapping):
        raise InputError(f"stop must be a string or a list of strings, got {value!r}.")
    strings = tuple(strings)
    for string in strings:
        if not isinstance(string, str):
            raise InputError(f"stop must hold strings, got {string!r}.")
        if not string:
            raise InputError("stop must not hold an empty string: it would end every sequence.")
    return strings


def check_template_options(options: Any) -> None:
    """Raise `InputError` for further arguments of a chat template that it cannot be given."""
    if not isinstance(options, Mapping) or not all(isinstance(name, str) for name in options):
        raise InputError(
            "chat_template_kwargs must be a dict of a template's arguments, such as "
            f"{{'enable_thinking': False}}, got {options!r}."
        )
    if taken := _TEMPLATE_OPTIONS & options.keys():
        raise InputError(
            f"chat_template_kwargs must not hold {', '.join(sorted(taken))}: skipkv sets it. Leave "
            "it out, or apply the template yourself and give the text."
        )
    if idle := _TOKENIZING & options.keys():
        raise InputError(
            f"chat_template_kwargs must not hold {', '.join(sorted(idle))}, which no template "
            "reads: it would do nothing. Leave it out, or encode the prompt yourself and give the "
            "token ids."
        )


def whole_numbers(name: str, values: Any, *, least: int = 0) -> list[int]:
    """Numbers that a user gave as a list, checked; one number is a list of one.

    Args:
        name: of the argument, for errors.
        values: what was given.
        least: that each may be.

    Raises:
        InputError: it is no list of whole numbers, or one of them is too small.
    """
    given = [values] if _is_number(values) else values
    if isinstance(given, str | bytes | Mapping) or not isinstance(given, Iterable):
        raise InputError(f"{name} must be a list of whole numbers, got {values!r}.")
    numbers = list(given)
    for number in numbers:
        if not _is_number(number) or operator.index(number) < least:
            raise InputError(f"{name} must hold whole numbers of at least {least}, got {number!r}.")
    return [operator.index(number) for number in numbers]


def _own_stop(value: Any) -> tuple[str, ...] | None:
    return None if value is None else stop_strings(value)


def _own_sampling(value: Any) -> Sampling | None:
    return None if value is None else Sampling.of(value)


@attrs.frozen
class Prompt:
    """A prompt with settings of its own; a setting left out is that of the call of `generate`.

    Args:
        content: a text, token ids, or a list of chat messages.
        max_new_tokens: the most tokens to decode.
        sampling: how its tokens are chosen; a dict of `Sampling`'s arguments works too.
        stop: one or several strings that end it.
        seed: seed of its random numbers, at least 0.

    Raises:
        ConfigError: a value out of range.
        InputError: a stop string is empty, or not a string.

    Example:
        >>> from skipkv import Engine, Prompt, presets
        >>> from skipkv.testing import toy_model, toy_tokenizer
        >>> engine = Engine(toy_model(), toy_tokenizer(), presets.full())
        >>> prompts = ["one plus two", Prompt("three", max_new_tokens=5)]
        >>> [c.stats.new_tokens for c in engine.generate(prompts, max_new_tokens=9)]
        [9, 5]
    """

    content: Content
    max_new_tokens: int | None = attrs.field(
        default=None, kw_only=True, validator=is_a(int, least=1, optional=True)
    )
    sampling: Sampling | None = attrs.field(default=None, kw_only=True, converter=_own_sampling)
    stop: tuple[str, ...] | None = attrs.field(default=None, kw_only=True, converter=_own_stop)
    seed: int | None = attrs.field(
        default=None, kw_only=True, validator=is_a(int, least=0, optional=True)
    )


def each(prompts: Any, tokenizer: Any) -> list[Any] | Iterator[Any]:
    """The given prompts, one by one.

    A list, a tensor or a tokenizer's output gives a list. Another iterable gives an iterator, so
    that its prompts are taken as they are needed. Padding that an attention mask marks is left out.

    Args:
        prompts: what a user gave as a list of prompts.
        tokenizer: the model's tokenizer; says which token is padding.

    Raises:
        InputError: it is a single prompt outside a list, or not an iterable of prompts.
    """
    if isinstance(prompts, str):
        raise InputError("prompts must be a list of prompts, got one string. Wrap it: [prompt].")
    if isinstance(prompts, Prompt):
        raise InputError("prompts must be a list of prompts, got one Prompt. Wrap it: [prompt].")
    if isinstance(prompts, Mapping):
        return _encoded(prompts)
    if isinstance(prompts, Tensor | np.ndarray):
        return _rows(prompts, tokenizer)
    if isinstance(prompts, bytes | bytearray) or not isinstance(prompts, Iterable):
        raise InputError(
            f"prompts must be a list of prompts (or another iterable), got {kind_of(prompts)}. "
            f"Each prompt is {_KINDS}."
        )
    if isinstance(prompts, set | frozenset):
        raise InputError(
            "prompts must be a list of prompts, got a set, which has no order: completions are "
            "numbered as the prompts. Give sorted(prompts)."
        )
    if not isinstance(prompts, Sequence):
        return iter(prompts)
    given = list(prompts)
    if given and all(map(_is_number, given)):
        raise InputError(
            "prompts must be a list of prompts, got one list of token ids. Wrap it: [ids]."
        )
    if given and all(isinstance(item, Mapping) and "input_ids" not in item for item in given):
        raise InputError(
            "prompts must be a list of prompts, got the messages of one chat. Wrap it: [chat]."
        )
    if _rectangular(given):
        _check_padding(given, tokenizer, remedy="the tokenizer's whole answer, which has the mask")
    return given


def token_ids(
    content: Any,
    tokenizer: Any,
    *,
    name: str = "The prompt",
    chat_template_kwargs: Mapping[str, Any] | None = None,
) -> list[int]:
    """The token ids of one prompt.

    Args:
        content: a text, token ids, a list of chat messages, or a tokenizer's output.
        tokenizer: the model's tokenizer. Its chat template turns a chat into text.
        name: the name of the prompt in errors.
        chat_template_kwargs: further arguments for the template, such as `enable_thinking`.

    Raises:
        InputError: the prompt is empty or of another kind, or the chat template fails on it.
    """
    if isinstance(content, str):
        return text_ids(content, tokenizer, name)
    if isinstance(content, Mapping):
        if "input_ids" in content:
            rows = _encoded(content, one=name)
            if len(rows) != 1:
                raise InputError(f"{name} holds {len(rows)} rows of token ids. Give one row.")
            return _of_ids(rows[0], name)
        if "role" in content:
            raise InputError(f"{name} is one message of a chat. Wrap it: [message].")
    if isinstance(content, Tensor | np.ndarray):
        return _of_ids(_vector(content, name), name)
    if not isinstance(content, Iterable) or isinstance(content, bytes | bytearray | Mapping | set):
        raise InputError(f"{name} must be {_KINDS}, got {kind_of(content)}.")
    items = list(content)
    if not items:
        raise InputError(f"{name} is empty: it has no tokens and no messages.")
    if isinstance(items[0], Mapping):
        text = chat_text(items, tokenizer, name, chat_template_kwargs or {}, answer=True)
        return text_ids(text, tokenizer, name, add_special_tokens=False)
    if all(isinstance(item, str) for item in items):
        raise InputError(
            f"{name} is a list of texts. Give each text as a prompt of its own, or join them."
        )
    return _of_ids(items, name)


def text_ids(text: str, tokenizer: Any, name: str, **options: Any) -> list[int]:
    """The token ids of a text.

    Args:
        text: the text.
        tokenizer: the model's tokenizer.
        name: the prompt's name, for errors.
        options: further arguments for the tokenizer.

    Raises:
        InputError: the text is empty, or cannot be encoded.
    """
    if not text.strip():
        raise InputError(f"{name} is empty.")
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise InputError(
            f"{name} is not valid text: character {error.start} is {text[error.start]!r}, half of "
            "a surrogate pair. It was probably read with the wrong encoding."
        ) from error
    return list(tokenizer(text, **options)["input_ids"])


def is_chat(content: Any) -> bool:
    """Whether a prompt is a list of messages."""
    return isinstance(content, list | tuple) and bool(content) and isinstance(content[0], Mapping)


def chat_text(
    messages: Sequence[Any],
    tokenizer: Any,
    name: str,
    options: Mapping[str, Any],
    *,
    answer: bool,
) -> str:
    """The text of a chat.

    Args:
        messages: its messages.
        tokenizer: the model's tokenizer; its chat template makes the text.
        name: the prompt's name, for errors.
        options: further arguments for the template.
        answer: whether the text ends where an answer begins.

    Raises:
        InputError: there is no template, or it fails on this chat.
    """
    if not getattr(tokenizer, "chat_template", None):
        raise InputError(
            f"{name} is a chat, but the tokenizer has no chat template. Give the prompt as text."
        )
    check_template_options(options)
    chat = [_message(message, number, name) for number, message in enumerate(messages)]
    try:
        text = tokenizer.apply_chat_template(
            chat, tokenize=False, add_generation_prompt=answer, **options
        )
    except Exception as error:  # templates raise errors of any kind
        reason = " ".join(str(error).split())
        raise InputError(
            f"{name}: the tokenizer's chat template fails on this chat: {type(error).__name__}: "
            f"{reason}. Look at the roles and their order, or at the template."
        ) from error
    return str(text)


def _message(message: Any, number: int, name: str) -> dict[str, Any]:
    """A message as templates take it: its content is one text."""
    where = f"{name}: message {number}"
    if not isinstance(message, Mapping):
        raise InputError(f"{where} must be a dict with role and content, got {kind_of(message)}.")
    if not isinstance(message.get("role"), str):
        raise InputError(f"{where} has no role. Give it one, such as 'user'.")
    content = message.get("content")
    if content is None and message.get("tool_calls"):
        return dict(message)
    if isinstance(content, list | tuple):
        content = "".join(_part(part, where) for part in content)
    if not isinstance(content, str):
        raise InputError(
            f"{where} must have a text as its content, got "
            f"{kind_of(content) if 'content' in message else 'none'}."
        )
    return {**message, "content": content}


def _part(part: Any, where: str) -> str:
    """The text of one part of a message's content."""
    text = part.get("text") if isinstance(part, Mapping) else part
    if not isinstance(text, str):
        kind = part.get("type") if isinstance(part, Mapping) else kind_of(part)
        raise InputError(
            f"{where} has a part that is not text ({kind}). The model reads only text: leave the "
            "part out."
        )
    return text


def _of_ids(items: Iterable[Any], name: str) -> list[int]:
    ids = []
    for item in items:
        if not _is_number(item):
            raise InputError(
                f"{name} holds {str(item)[:40]!r}, {kind_of(item)}, in the place of a token id. "
                "Token ids are whole numbers."
            )
        ids.append(operator.index(item))
    if not ids:
        raise InputError(f"{name} has no tokens.")
    return ids


def _encoded(given: Mapping[str, Any], *, one: str | None = None) -> list[list[Any]]:
    """The rows of a tokenizer's output, without the tokens that its attention mask excludes.

    Args:
        given: has `input_ids`, and perhaps an `attention_mask`.
        one: the name of the prompt if it must be a single one; it may then stand outside a list.
    """
    if "input_ids" not in given:
        raise InputError(
            "prompts must be a list of prompts, or a tokenizer's output (with input_ids), got "
            f"{kind_of(given)} with {', '.join(map(repr, given)) or 'nothing'}."
        )
    ids, mask = _plain(given["input_ids"]), _plain(given.get("attention_mask"))
    if not ids or not isinstance(ids[0], list | tuple):
        if one is None:
            raise InputError(
                "prompts must be a list of prompts, got one encoded prompt. Wrap it: [encoded]."
            )
        ids, mask = [ids], None if mask is None else [mask]
    mask = mask or [[1] * len(row) for row in ids]
    if [len(row) for row in mask] != [len(row) for row in ids]:
        raise InputError("attention_mask and input_ids must have the same shape.")
    return [
        [token for token, real in zip(row, own, strict=True) if real]
        for row, own in zip(ids, mask, strict=True)
    ]


def _plain(values: Any) -> Any:
    return values.tolist() if hasattr(values, "tolist") else values


def _rows(tensor: Any, tokenizer: Any) -> list[list[Any]]:
    """The rows of a tensor or an array of prompts."""
    if tensor.ndim == 1:
        raise InputError(
            "prompts must be a list of prompts, got one row of token ids. Wrap it: [ids]."
        )
    if tensor.ndim != 2:
        raise InputError(
            f"prompts must be a list of prompts or a tensor [prompts, tokens], got "
            f"{list(tensor.shape)}."
        )
    rows: list[list[Any]] = tensor.tolist()
    _check_padding(rows, tokenizer, remedy="the tokenizer's whole answer, which has the mask")
    return rows


def _vector(tensor: Any, name: str) -> list[Any]:
    """Token ids of a tensor or an array that holds one row."""
    if tensor.ndim == 2 and len(tensor) == 1:
        tensor = tensor[0]
    if tensor.ndim != 1:
        raise InputError(f"{name} must be one row of token ids, got a tensor {list(tensor.shape)}.")
    ids: list[Any] = tensor.tolist()
    return ids


def _rectangular(prompts: list[Any]) -> bool:
    """Whether these are several lists of one length, as a tokenizer with padding returns them."""
    if len(prompts) < 2 or not all(isinstance(prompt, list | tuple) for prompt in prompts):
        return False
    return len({len(prompt) for prompt in prompts}) == 1


def _check_padding(rows: Sequence[Sequence[Any]], tokenizer: Any, *, remedy: str) -> None:
    """Raise `InputError` for rows that begin or end with the padding token."""
    pad = getattr(tokenizer, "pad_token_id", None)
    for index, row in enumerate(rows):
        if pad is not None and row and pad in (row[0], row[-1]):
            raise InputError(
                f"Prompt {index} begins or ends with the padding token {pad}, which the model "
                f"would read as text. Give {remedy}, or lists of ids without padding."
            )


def _is_number(item: Any) -> bool:
    """Whether it is a whole number, of Python or any library."""
    if type(item) is int:
        return True
    if isinstance(item, bool | np.bool_):
        return False
    try:
        operator.index(item)
    except TypeError:
        return False
    return True
