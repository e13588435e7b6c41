"""Prompts of similar length are decoded together."""

from collections.abc import Sequence

import attrs

from skipkv._types import Request
from skipkv.errors import ConfigError


@attrs.frozen(kw_only=True)
class LengthGrouped:
    """Starts a batch of prompts of similar length when nothing is running.

    A static batch: it waits until the last sequence of a batch has finished. Then it takes the
    shortest waiting prompts, in the order of their lengths; of equal ones the earlier request comes
    first. Prompts of similar length need little padding, and compress at the same steps.

    Source: SkipKV (arXiv 2512.07993), batch grouping. Differs: here padding never enters the cache,
    so grouping changes the time and not the decoded tokens. The paper does not say which group goes
    first; here the shortest prompts do, so that the first answers come soon. All requests of one
    call wait from its beginning, so every request starts at some time.

    Args:
        batch_size: most sequences decoded together; at least 1. Free slots limit it too.

    Raises:
        ConfigError: `batch_size` is not a whole number of at least 1.

    Example:
        >>> waiting = [
        ...     Request(index=i, prompt=[1] * length, max_new_tokens=1)
        ...     for i, length in enumerate([9, 2, 5, 3])
        ... ]
        >>> list(LengthGrouped(batch_size=3).admit(waiting, free=8, running=0))
        [1, 3, 2]
        >>> list(LengthGrouped(batch_size=3).admit(waiting, free=5, running=3))
        []
    """

    batch_size: int = attrs.field()

    @batch_size.validator
    def _at_least_one(self, _: object, value: object) -> None:
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise ConfigError(
                f"LengthGrouped(batch_size={value!r}) must be a whole number of at least 1: it is "
                "how many sequences are decoded together."
            )

    def admit(self, waiting: Sequence[Request], *, free: int, running: int) -> Sequence[int]:
        """The shortest waiting prompts when nothing is running, else none."""
        if running:
            return ()
        by_length = sorted(range(len(waiting)), key=lambda i: (waiting[i].prompt_tokens, i))
        return by_length[: min(self.batch_size, free)]
