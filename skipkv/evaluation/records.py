"""Records: a line of JSON for every sample, written as soon as the sample is done."""

import json
from pathlib import Path

import attrs

from skipkv._runs import LineFile, read_lines
from skipkv._validators import is_a
from skipkv.evaluation.cells import Cell


@attrs.frozen(kw_only=True)
class Record:
    """The answer of one sample and its cost.

    Args:
        data: name of the data set.
        policy: label of the policy.
        asked: the requested budget; None if the policy takes none.
        budget: the same in tokens.
        problem: id of the problem.
        sample: number of the sample among those of the problem, from 0.
        seed: seed of its random numbers.
        gold: the known answer.
        answer: the model's answer; None if it gave none.
        correct: whether the two are equal.
        prompt_tokens: length of the prompt.
        new_tokens: tokens decoded.
        stop_reason: "eos", "length" (cut off) or "error".
        error: why it failed: the error of the part at fault, or why the prompt was refused.
        execution: number of sentences of the thinking that do the work.
        reflection: number of sentences that check it.
        transition: number of sentences that change the approach.
        events: compression events that dropped entries.
        evicted: entries dropped, summed over layers and KV heads.
        mean_entries: mean number of entries per KV head that a decode step attended to.
        peak_entries: the most entries a head held.
        peak_kv_bytes: bytes of keys and values allocated per sequence, as measured.
        seconds: time from the start of the prompt's pass to the last token, while the other
            sequences of the batch decode too.
        wall_seconds: time since the previous sample was done; the sum is the decoding time.
        batch_size: sequences decoded together.
        text: the decoded text, special tokens included; None if it was not kept.
    """

    data: str = attrs.field(validator=is_a(str))
    policy: str = attrs.field(validator=is_a(str))
    asked: str | None = attrs.field(validator=is_a(str, optional=True))
    budget: int | None = attrs.field(validator=is_a(int, optional=True))
    problem: str = attrs.field(validator=is_a(str))
    sample: int = attrs.field(validator=is_a(int))
    seed: int = attrs.field(validator=is_a(int))
    gold: str = attrs.field(validator=is_a(str))
    answer: str | None = attrs.field(validator=is_a(str, optional=True))
    correct: bool = attrs.field(validator=is_a(bool))
    prompt_tokens: int = attrs.field(validator=is_a(int))
    new_tokens: int = attrs.field(validator=is_a(int))
    stop_reason: str = attrs.field(validator=is_a(str))
    error: str | None = attrs.field(default=None, validator=is_a(str, optional=True))
    execution: int = attrs.field(validator=is_a(int))
    reflection: int = attrs.field(validator=is_a(int))
    transition: int = attrs.field(validator=is_a(int))
    events: int = attrs.field(validator=is_a(int))
    evicted: int = attrs.field(validator=is_a(int))
    mean_entries: float | int = attrs.field(validator=is_a(float))
    peak_entries: int = attrs.field(validator=is_a(int))
    peak_kv_bytes: int = attrs.field(validator=is_a(int))
    seconds: float | int = attrs.field(validator=is_a(float))
    wall_seconds: float | int = attrs.field(validator=is_a(float))
    batch_size: int = attrs.field(validator=is_a(int))
    text: str | None = attrs.field(default=None, validator=is_a(str, optional=True))

    @property
    def cell(self) -> Cell:
        """The cell of the sample."""
        return Cell(data=self.data, policy=self.policy, asked=self.asked, budget=self.budget)

    @property
    def non_execution(self) -> int:
        """The number of reflections and transitions."""
        return self.reflection + self.transition

    @property
    def failed(self) -> bool:
        """Whether the sample ended with an error: it has no answer, and may be tried again."""
        return self.stop_reason == "error"

    def line(self) -> str:
        """The record as a line of JSON."""
        return json.dumps(attrs.asdict(self)) + "\n"


def read_records(path: Path) -> tuple[list[Record], int]:
    """The records of a file, and the number of bytes they take: see `read_lines`.

    Raises:
        InputError: a line before the last is not a record.
    """
    return read_lines(path, Record)


class RecordFile(LineFile[Record]):
    """The records of a folder, opened for adding records."""

    def __init__(self, path: Path) -> None:
        super().__init__(path, Record)
