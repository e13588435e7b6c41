"""Reading prompts: from arguments, a text file, a JSONL file or a pipe."""

import json
import sys
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, TypeAlias

from skipkv._runs.jsonl import kind, lines, objects
from skipkv.errors import InputError

Chat: TypeAlias = list[dict[str, Any]]
"""A conversation: messages with `role`, `content`, and what else the chat template reads."""
Prompt: TypeAlias = str | Chat
"""One line of input: a text, or a conversation."""


def read_prompts(
    arguments: Sequence[str],
    *,
    source: str | None = None,
    jsonl: bool | None = None,
    field: str = "prompt",
    limit: int | None = None,
) -> list[Prompt]:
    """Read and check all prompts of a run.

    Prompts come from one place: the arguments, or the file `source`, or standard input. Standard
    input is read if `source` is "-", or if nothing else is given and it is not a terminal. A file
    whose name ends in .jsonl is JSONL; any other file, and standard input, is text with a prompt
    per line. `jsonl` overrides both. Blank lines are skipped. In JSONL the field holds a text or a
    list of messages.

    Args:
        arguments: prompts from the command line.
        source: path of a file, or "-".
        jsonl: whether lines are JSON objects; None decides by the file's name.
        field: name of the JSONL field with the prompt.
        limit: most prompts to read, from the start.

    Raises:
        InputError: there is no prompt, there are two sources, or a file or line cannot be used;
            the message names file and line.
    """
    if arguments and source is not None:
        raise InputError(
            f"Prompts come from the arguments or from --input {source}, but not from both. Drop "
            "one."
        )
    if arguments:
        if any(not prompt.strip() for prompt in arguments):
            raise InputError("A prompt given as an argument is empty. Give it some text.")
        return list(arguments[:limit])
    if source is None and (sys.stdin is None or sys.stdin.isatty()):
        raise InputError(
            "No prompt. Give prompts as arguments, with --input FILE, or pipe them in, one per "
            "line."
        )
    if source is None or source == "-":
        prompts = _parsed(sys.stdin.buffer, "standard input", bool(jsonl), field, limit)
    else:
        as_json = source.endswith(".jsonl") if jsonl is None else jsonl
        try:
            with Path(source).open("rb") as file:
                prompts = _parsed(file, source, as_json, field, limit)
        except OSError as error:
            raise InputError(f"{source}: {error.strerror}.") from error
    if not prompts:
        raise InputError(
            f"{source or 'standard input'} holds no prompt, only blank lines or nothing. Write a "
            "prompt per line."
        )
    return prompts


def _parsed(
    file: Iterable[bytes], name: str, as_json: bool, field: str, limit: int | None
) -> list[Prompt]:
    parsed = _from_jsonl(file, name, field) if as_json else _from_text(file, name)
    return list(islice(parsed, limit))


def _from_text(file: Iterable[bytes], name: str) -> Iterator[Prompt]:
    for _, line in lines(file, name):
        yield line


def _from_jsonl(file: Iterable[bytes], name: str, field: str) -> Iterator[Prompt]:
    for place, record in objects(file, name):
        if field not in record:
            there = ", ".join(map(repr, record)) or "none"
            raise InputError(
                f"{place}: no field {field!r}; fields there: {there}. Name the prompt's with "
                "--field."
            )
        yield _prompt(record[field], f"{place}: field {field!r}")


def _prompt(value: object, where: str) -> Prompt:
    if isinstance(value, str):
        if not value.strip():
            raise InputError(f"{where} is an empty prompt.")
        return value
    if not isinstance(value, list):
        raise InputError(f"{where} must be a text or a list of messages, got {kind(value)}.")
    if not value:
        raise InputError(f"{where} is an empty list of messages.")
    return [_message(message, where) for message in value]


def _message(message: object, where: str) -> dict[str, Any]:
    """A message, with its content as one text; its other keys are for the chat template."""
    if isinstance(message, dict) and isinstance(message.get("role"), str):
        content = message.get("content")
        if content is None and message.get("tool_calls"):
            return message
        if isinstance(content, list) and all(isinstance(part, dict) for part in content):
            texts = [part.get("text") for part in content]
            content = "".join(texts) if all(isinstance(text, str) for text in texts) else None
        if isinstance(content, str):
            return {**message, "content": content}
    raise InputError(
        f"{where}: a message is an object with the texts 'role' and 'content', "
        f"got {json.dumps(message)[:80]}."
    )
