"""Reads problems from a JSONL file."""

import csv
import io
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any

from skipkv._runs.jsonl import kind, objects
from skipkv.errors import InputError
from skipkv.evaluation.answers import final_answer
from skipkv.evaluation.choices import is_choice, lettered
from skipkv.evaluation.problems import Problem

QUESTION_FIELDS = ("question", "problem", "prompt", "input")
"""The fields in which a question is looked for, in this order."""
ANSWER_FIELDS = ("answer", "final_answer", "target", "solution", "output")
"""The fields in which an answer is looked for, in this order."""


def read_problems(
    path: str | Path,
    *,
    question_field: str | None = None,
    answer_field: str | None = None,
    seed: int = 0,
) -> tuple[Problem, ...]:
    r"""The problems of a file with a JSON object per line, or of a CSV file with a head.

    A row with GPQA's fields is a question of multiple choice, whose choices are shuffled.

    A problem's id is its number in the file, from 0. Of a worked answer only the end is used: the
    text after `####` in the last line, as in GSM8K, or the last `\boxed{...}`.

    Args:
        path: the file.
        question_field: the field with the question; by default the first of `QUESTION_FIELDS`.
        answer_field: the field with the answer, a text or a number; by default the first of
            `ANSWER_FIELDS`.
        seed: of the order of choices.

    Raises:
        InputError: the file cannot be read, holds no problem, or has a line that cannot be used.
            The message names the file and the line.
    """
    problems: list[Problem] = []
    try:
        with Path(path).open("rb") as file:
            rows = csv_rows if str(path).endswith(".csv") else objects
            for place, row in rows(file, str(path)):
                index = str(len(problems))
                if is_choice(row) and question_field is None:
                    row = lettered(row, place, seed=seed, index=index)
                problems.append(problem_of(row, index, place, question_field, answer_field))
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}.") from error
    if not problems:
        raise InputError(f"{path} holds no problem: it is empty or blank.")
    return tuple(problems)


def csv_rows(file: IO[bytes], name: str) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """The rows of a CSV file, each after its place `file:line`.

    Args:
        file: opened for bytes.
        name: of the file, for messages.

    Raises:
        InputError: it is not UTF-8 text, or a row has more or fewer cells than the head.
    """
    reader = csv.DictReader(io.TextIOWrapper(file, encoding="utf-8-sig", newline=""))
    try:
        for row in reader:
            place = f"{name}:{reader.line_num}"
            if None in row or None in row.values():
                raise InputError(f"{place}: as many cells as the head has are needed.")
            yield place, row
    except UnicodeDecodeError as error:
        raise InputError(f"{name}: not UTF-8 text ({error.reason}). Convert the file.") from error
    except csv.Error as error:
        raise InputError(f"{name}:{reader.line_num}: not CSV ({error}).") from error


def problem_of(
    row: Mapping[str, Any],
    index: str,
    place: str,
    question_field: str | None = None,
    answer_field: str | None = None,
) -> Problem:
    """One row of a data set as a problem.

    Args:
        row: its fields.
        index: the problem's id.
        place: the place of the row, for messages.
        question_field: as for `read_problems`.
        answer_field: as for `read_problems`.
    """
    question = _field(row, place, "question", question_field, QUESTION_FIELDS)
    answer = _final(_field(row, place, "answer", answer_field, ANSWER_FIELDS))
    if not answer:
        raise InputError(
            f"{place}: the answer ends in '####' without text after it. Write the final answer "
            "there, or drop the line."
        )
    return Problem(id=index, question=question, answer=answer)


def _field(
    row: Mapping[str, Any], place: str, what: str, asked: str | None, known: Sequence[str]
) -> str:
    names = [asked] if asked is not None else [name for name in known if name in row]
    if not names or names[0] not in row:
        there = ", ".join(map(repr, row)) or "none"
        wanted = repr(asked) if asked is not None else f"any of {', '.join(known)}"
        raise InputError(
            f"{place}: no {what}, looked for {wanted}; fields there: {there}. Name it with "
            f"--{what}-field."
        )
    value = row[names[0]]
    if isinstance(value, int | float) and not isinstance(value, bool):
        value = str(value)
    if not isinstance(value, str) or not value.strip():
        came = "an empty text" if isinstance(value, str) else kind(value)
        raise InputError(f"{place}: the {what} {names[0]!r} must be a text, got {came}.")
    return value


# GSM8K's last line, and its commas between thousands; those of "0,1" and "12,34" are not
_HASHES = re.compile(r"####((?:(?!####)[^\n])*)\s*\Z")
_THOUSANDS = re.compile(r"(?<![\d.,])[1-9]\d{0,2}(?:,\d{3})+(?!\d|,\d)")


def _final(answer: str) -> str:
    found = _HASHES.search(answer)
    if found is None:
        return final_answer(answer) or answer.strip()
    return _THOUSANDS.sub(lambda number: number[0].replace(",", ""), found[1].strip())
