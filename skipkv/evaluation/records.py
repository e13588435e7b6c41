"""Records: a line of JSON for every sample, written the moment it is done."""

import json
from pathlib import Path

import attrs

from skipkv._runs import LineFile, read_lines
from skipkv._validators import is_a
from skipkv.evaluation.cells import Cell


@attrs.frozen(kw_only=True)
class Record:
    """What one sample gave and what it cost.

    Args:
        data: the data set's name.
        policy: the policy's label.
        asked: the budget as it was asked for; None where the policy takes none.
        budget: the same in tokens.
        problem: the problem's id.
        sample: which sample of the problem, from 0.
        seed: of its random numbers.
        gold: the known answer.
        answer: the model's; None where it gave none.
        correct: whether they say the same.
        prompt_tokens: length of the prompt.
        new_tokens: tokens decoded.
        stop_reason: "eos", "length" (cut off) or "error".
        error: why it failed: the message of the part that broke, or why the prompt was refused.
        execution: sentences of the thinking that do the work.
        reflection: sentences that check it.
        transition: sentences that change the line of attack.
        events: compression events that dropped something.
        evicted: entries dropped, summed over layers and KV heads.
        mean_entries: entries per KV head that a decode step attended to, on average.
        peak_entries: most entries a head held.
        peak_kv_bytes: bytes of keys and values allocated per sequence, as measured.
        seconds: from the start of the prompt's pass to the last token, neighbours included.
        wall_seconds: since the sample before it was done; these add up to the decoding time.
        batch_size: sequences that were decoded side by side.
        text: what was decoded, special tokens included; None where it was not to be kept.
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
        """The cell it belongs to."""
        return Cell(data=self.data, policy=self.policy, asked=self.asked, budget=self.budget)

    @property
    def non_execution(self) -> int:
        """Reflections and transitions together."""
        return self.reflection + self.transition

    @property
    def failed(self) -> bool:
        """Whether it ended with an error: it is no answer, and may be tried again."""
        return self.stop_reason == "error"

    def line(self) -> str:
        """The record as a line of JSON."""
        return json.dumps(attrs.asdict(self)) + "\n"


def read_records(path: Path) -> tuple[list[Record], int]:
    """The records of a file, and how many bytes of it they take: see `read_lines`.

    Raises:
        InputError: a line before the last is no record.
    """
    return read_lines(path, Record)


class RecordFile(LineFile[Record]):
    """The records of a folder, opened to add to them."""

    def __init__(self, path: Path) -> None:
        super().__init__(path, Record)
