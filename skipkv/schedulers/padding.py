"""How much padding a runtime that pads would store."""

from collections.abc import Sequence

from skipkv.errors import ConfigError


def padding_tokens(lengths: Sequence[int], *, batch_size: int | None = None) -> int:
    """Padding, in tokens, of prompts that are batched in this order and padded to the longest.

    This library stores no padding. The number shows the use of grouping by length in other
    runtimes: compare the lengths in their original order with the same lengths sorted. Where
    `batch_size` divides the number of prompts, the sorted order needs the least padding.

    Args:
        lengths: prompt lengths in tokens, in the order they are batched.
        batch_size: prompts per batch; None for a single batch. The last batch may be smaller.

    Raises:
        ConfigError: `batch_size` is below 1.

    Example:
        >>> padding_tokens([9, 2, 8, 3], batch_size=2)
        12
        >>> padding_tokens(sorted([9, 2, 8, 3]), batch_size=2)
        2
    """
    if batch_size is not None and batch_size < 1:
        raise ConfigError(f"padding_tokens(batch_size={batch_size}) must be at least 1, or None.")
    size = batch_size or max(1, len(lengths))
    batches = [lengths[start : start + size] for start in range(0, len(lengths), size)]
    return sum(max(batch) * len(batch) - sum(batch) for batch in batches)
