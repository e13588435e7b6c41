"""A case of the benchmark: a subject at a batch size and a budget."""

from typing import Any

import attrs


@attrs.frozen(kw_only=True)
class Case:
    """A row of the benchmark's table.

    Args:
        subject: label of the policy or the baseline.
        batch_size: sequences decoded together.
        budget: entries per KV head; None for a subject without a budget.

    Example:
        >>> print(Case(subject="rkv", batch_size=8, budget=256))
        rkv at 256, batch 8
    """

    subject: str
    batch_size: int
    budget: int | None = None

    def __str__(self) -> str:
        at = "" if self.budget is None else f" at {self.budget}"
        return f"{self.subject}{at}, batch {self.batch_size}"


@attrs.frozen(kw_only=True)
class Job:
    """The work of every subject at one batch size.

    Args:
        model: a causal language model, as for `Engine`.
        tokenizer: its tokenizer.
        prompts: token ids of the sequences, all of one length.
        new_tokens: tokens decoded for each sequence; a sequence never ends earlier.
        interval: steps between two events.
        budget: entries per KV head, for subjects that take a budget.
        every: tokens between two memory samples.
        threads: threads of a process of its own; None for as many as this process.
    """

    model: Any = attrs.field(repr=False)
    tokenizer: Any = attrs.field(repr=False)
    prompts: tuple[tuple[int, ...], ...] = attrs.field(repr=False)
    new_tokens: int
    interval: int
    budget: int | None = None
    every: int = 16
    threads: int | None = None

    @property
    def prompt_tokens(self) -> int:
        """Length of each prompt."""
        return len(self.prompts[0])
