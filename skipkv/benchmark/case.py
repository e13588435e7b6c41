"""What is measured: a subject at a batch size and a budget."""

from typing import Any

import attrs


@attrs.frozen(kw_only=True)
class Case:
    """A row of the benchmark's table.

    Args:
        subject: the policy's or the baseline's label.
        batch_size: sequences decoded side by side.
        budget: entries per KV head; None for a subject that takes none.

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
    """What every subject of one batch size is given to do.

    Args:
        model: a causal language model, as for `Engine`.
        tokenizer: its tokenizer.
        prompts: token ids of the sequences, all of one length.
        new_tokens: tokens decoded for each; nothing ends earlier.
        interval: steps between two events.
        budget: entries per KV head, for subjects that take one.
        every: tokens between two looks at the memory.
        threads: how many a process of its own is to compute with; None for as many as this one.
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
