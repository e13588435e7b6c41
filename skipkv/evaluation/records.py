"""Records: a line of JSON for every sample, written the moment it is done."""

import json
from pathlib import Path

import attrs

from skipkv.evaluation.cells import Cell
from skipkv.evaluation.lines import LineFile, read_lines


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
        error: the message of the part that broke, if one did.
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

    data: str
    policy: str
    asked: str | None
    budget: int | None
    problem: str
    sample: int
    seed: int
    gold: str
    answer: str | None
    correct: bool
    prompt_tokens: int
    new_tokens: int
    stop_reason: str
    error: str | None = None
    execution: int
    reflection: int
    transition: int
    events: int
    evicted: int
    mean_entries: float
    peak_entries: int
    peak_kv_bytes: int
    seconds: float
    wall_seconds: float
    batch_size: int
    text: str | None = None

    @property
    def cell(self) -> Cell:
        """The cell it belongs to."""
        return Cell(data=self.data, policy=self.policy, asked=self.asked, budget=self.budget)

    @property
    def non_execution(self) -> int:
        """Reflections and transitions together."""
        return self.reflection + self.transition

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
