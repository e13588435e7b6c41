"""Data sets: named ones, and any JSONL file."""

import hashlib
import importlib
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import attrs
from attrs.validators import deep_iterable, instance_of

from skipkv._runs import require_extra
from skipkv._validators import is_a
from skipkv.errors import ConfigError, InputError
from skipkv.evaluation.choices import INSTRUCTION as CHOOSE
from skipkv.evaluation.jsonl import problem_of, read_problems
from skipkv.evaluation.problems import Problem
from skipkv.models.loading import EMBEDDED

INSTRUCTION = r"Please reason step by step, and put your final answer within \boxed{}."
"""The instruction that the papers put after every question."""


@attrs.frozen(kw_only=True)
class Defaults:
    """The default settings for decoding a data set.

    Args:
        interval: decode steps between two compression events.
        max_new_tokens: the most tokens decoded per sample.
        batch_size: sequences decoded together.
        instruction: text after each question in the prompt; may be empty.
        temperature: sampling temperature; 0 is greedy.
        top_p: share of the probability that is sampled from.
        count: number of problems, for a generated set.
        budgets: budgets that `skipkv eval` compares.
        policies: policies that `skipkv eval` compares with the full cache.
    """

    interval: int = 128
    max_new_tokens: int = 8192
    batch_size: int = 8
    instruction: str = INSTRUCTION
    temperature: float = 0.0
    top_p: float = 1.0
    count: int | None = None
    budgets: str = "25%,50%,75%"
    policies: str = "streaming_llm,snapkv,rkv,skipkv"


_SAMPLED = Defaults(max_new_tokens=32768, temperature=0.6, top_p=0.95)
# Source: SkipKV (arXiv 2512.07993) and R-KV (arXiv 2505.24133), experiments; `tiny` and `rambler`
# are the embedded reasoners' own, with short traces and vocabularies that know no instruction.
DEFAULTS = {
    "tiny": Defaults(
        interval=16,
        max_new_tokens=640,
        batch_size=64,
        instruction="",
        count=100,
        # the papers also choose the threshold per model; docs/results.md says how this one was
    ),
    "rambler": Defaults(
        interval=32,
        max_new_tokens=1408,
        batch_size=64,
        instruction="",
        temperature=0.6,
        top_p=0.95,
        count=100,
        budgets="8%,13%,25%",
    ),
    "gsm8k": Defaults(),
    "math500": Defaults(),
    "aime24": Defaults(max_new_tokens=16384),
    # the field's protocol for these: several samples at 0.6 with top-p 0.95
    **dict.fromkeys(("aime25", "aime26", "hmmt"), _SAMPLED),
    "gpqa": attrs.evolve(_SAMPLED, instruction=CHOOSE),
}
"""The settings of the named data sets. Others are decoded as GSM8K."""

# on the hub: repository, configuration, split
_HUB = {
    "gsm8k": ("openai/gsm8k", "main", "test"),
    "math500": ("HuggingFaceH4/MATH-500", "default", "test"),
    "aime24": ("HuggingFaceH4/aime_2024", "default", "train"),
}


def _problems(values: Sequence[Problem]) -> tuple[Problem, ...]:
    return tuple(values)


@attrs.frozen(kw_only=True)
class DataSet:
    """Problems, and the settings to decode them with.

    Args:
        name: its name in records, tables and the file names of plots.
        problems: at least one problem; their ids differ.
        defaults: settings for decoding, which a sweep may replace.

    Raises:
        ConfigError: the name cannot be a file's, there are no problems, or two have the same id.

    Example:
        >>> sums = DataSet(name="sums", problems=[Problem(id="a", question="2+3?", answer="5")])
        >>> len(sums.problems), sums.defaults.max_new_tokens
        (1, 8192)
    """

    name: str = attrs.field(validator=is_a(str))
    problems: tuple[Problem, ...] = attrs.field(
        converter=_problems,
        validator=deep_iterable(instance_of(Problem)),
        repr=lambda problems: f"<{len(problems)} problems>",
    )
    defaults: Defaults = attrs.field(
        default=attrs.Factory(lambda self: DEFAULTS.get(self.name, Defaults()), takes_self=True)
    )

    def __attrs_post_init__(self) -> None:
        if not _fits_a_file(self.name):
            raise ConfigError(
                f"DataSet(name={self.name!r}) must fit into a file's name: not blank, at most 200 "
                "bytes, no slash, no control character. Rename it: --data NAME=FILE."
            )
        if not self.problems:
            raise ConfigError(f"DataSet(name={self.name!r}, problems=()) must hold a problem.")
        if len({problem.id for problem in self.problems}) < len(self.problems):
            raise ConfigError(f"DataSet(name={self.name!r}) holds two problems with the same id.")

    @property
    def fingerprint(self) -> str:
        """A digest of the problems."""
        text = repr([attrs.astuple(problem) for problem in self.problems])
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    def limited(self, limit: int | None, *, seed: int = 0) -> "DataSet":
        """A random part of `limit` problems in their order; the same seed gives the same part.

        Files are often sorted, so that their first problems are not a fair sample. The part of a
        smaller limit is contained in that of a larger one.

        Args:
            limit: number of problems; None for all.
            seed: decides which.

        Example:
            >>> many = [Problem(id=str(i), question="?", answer="!") for i in range(9)]
            >>> [problem.id for problem in DataSet(name="x", problems=many).limited(3).problems]
            ['1', '5', '7']
        """
        if limit is None or limit >= len(self.problems):
            return self
        if limit < 1:
            raise ConfigError(f"limit={limit} must be at least 1.")
        order = list(range(len(self.problems)))
        random.Random(seed).shuffle(order)
        return attrs.evolve(self, problems=[self.problems[i] for i in sorted(order[:limit])])


def load_dataset(
    spec: str,
    *,
    limit: int | None = None,
    seed: int = 0,
    question_field: str | None = None,
    answer_field: str | None = None,
    instruction: str | None = None,
) -> DataSet:
    """A data set by its name, from a file or from the hub.

    Args:
        spec: a name (`tiny` and `rambler`, which are generated; `gsm8k`, `math500` or `aime24`,
            from the hub); `name=FILE`, the same from a JSONL or CSV file (`aime25`, `aime26`,
            `hmmt` and `gpqa` too); or a FILE alone, named after the file.
        limit: the number of problems, chosen at random (see `DataSet.limited`); of `tiny`
            and `rambler`, the number to generate.
        seed: seed of that choice, of the generated problems, and of the order of choices (GPQA).
        question_field: JSONL field with the question; common names are found without it.
        answer_field: JSONL field with the answer; common names are found without it.
        instruction: text after each question; by default the papers', and none for `tiny`
            and `rambler`.

    Raises:
        InputError: the name is unknown, the file cannot be used, or the hub cannot be reached.
        MissingExtraError: a data set of the hub without the extra `hub`.
    """
    name, given, path = spec.partition("=")
    if (not given and _is_file(spec)) or (given and Path(spec).is_file()):
        name, path = Path(spec).stem, spec
    if not name:
        raise InputError(f"--data {spec} has no name before the '='. Write NAME=FILE.")
    if limit is not None and limit < 1:
        raise InputError(f"--limit {limit} must be at least 1.")
    if not path and name in EMBEDDED:
        return _instructed(_generated(name, limit, seed), instruction)
    if path:
        problems = read_problems(
            path, question_field=question_field, answer_field=answer_field, seed=seed
        )
    elif name in _HUB:
        problems = _from_hub(name)
    elif name in DEFAULTS:
        raise InputError(f"{name} comes from a file of yours: --data {name}=FILE.jsonl.")
    else:
        raise InputError(
            f"No data set is called {spec!r}. Known are {', '.join(DEFAULTS)}. Give a file of your "
            "own as FILE.jsonl or NAME=FILE."
        )
    return _instructed(DataSet(name=name, problems=problems).limited(limit, seed=seed), instruction)


def _fits_a_file(name: str) -> bool:
    whole = bool(name.strip()) and name.isprintable() and not set(name) & set("/\\")
    return whole and len(name.encode()) <= 200


def _instructed(data: DataSet, instruction: str | None) -> DataSet:
    if instruction is None:
        return data
    return attrs.evolve(data, defaults=attrs.evolve(data.defaults, instruction=instruction))


def _is_file(spec: str) -> bool:
    return spec.endswith((".jsonl", ".json", ".csv")) or (
        spec not in DEFAULTS and Path(spec).is_file()
    )


def _generated(name: str, limit: int | None, seed: int) -> DataSet:
    from skipkv.tiny import problems_of

    generated = problems_of(name, limit or DEFAULTS[name].count or 100, seed=seed)
    return DataSet(
        name=name,
        problems=[
            Problem(id=str(i), question=problem.question, answer=problem.answer)
            for i, problem in enumerate(generated)
        ],
    )


def _from_hub(name: str) -> tuple[Problem, ...]:
    require_extra("hub", "datasets")
    repository, configuration, split = _HUB[name]
    hub: Any = importlib.import_module("datasets")
    try:
        rows = hub.load_dataset(repository, configuration, split=split)
    except Exception as cause:  # without a network `datasets` raises errors of many types
        reason = " ".join(str(cause).split())[:200]
        raise InputError(
            f"Cannot load {name} ({repository}) from the hub: {type(cause).__name__}: {reason} "
            f"Give a file of your own: --data {name}=FILE.jsonl."
        ) from cause
    return tuple(problem_of(row, str(i), f"{repository}:{i + 1}") for i, row in enumerate(rows))
