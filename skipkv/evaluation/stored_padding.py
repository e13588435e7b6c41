"""The cost of stored padding: reproduces the batches of the published implementations."""

from collections.abc import Callable, Sequence
from typing import Any

import attrs

from skipkv._types import Request
from skipkv.errors import ConfigError
from skipkv.policy import Policy
from skipkv.runtime import Completion, Engine, Sampling
from skipkv.schedulers import BatchScheduler, Continuous


def stored_padding(
    lengths: Sequence[int], *, batch_size: int, scheduler: BatchScheduler | None = None
) -> list[int]:
    """Padding, in tokens, stored with each prompt when batches are padded to their longest.

    Args:
        lengths: prompt lengths in tokens, in the order the prompts came.
        batch_size: prompts per batch; the last batch may be smaller.
        scheduler: decides which prompts share a batch. By default they keep their order;
            `LengthGrouped(batch_size=...)` puts prompts of similar length together.

    Raises:
        ConfigError: `batch_size` is below 1.

    Example:
        >>> from skipkv.schedulers import LengthGrouped
        >>> stored_padding([9, 2, 8, 3], batch_size=2)
        [0, 7, 0, 5]
        >>> grouped = LengthGrouped(batch_size=2)
        >>> stored_padding([9, 2, 8, 3], batch_size=2, scheduler=grouped)
        [0, 1, 1, 0]
    """
    if batch_size < 1:
        raise ConfigError(f"stored_padding(batch_size={batch_size}) must be at least 1.")
    scheduler = scheduler or Continuous()
    padding = [0] * len(lengths)
    waiting = [
        Request(index=index, prompt=[0] * length, max_new_tokens=1)
        for index, length in enumerate(lengths)
    ]
    while waiting:
        chosen = list(scheduler.admit(tuple(waiting), free=batch_size, running=0))
        longest = max(waiting[place].prompt_tokens for place in chosen)
        for place in sorted(chosen, reverse=True):
            request = waiting.pop(place)
            padding[request.index] = longest - request.prompt_tokens
    return padding


def decode_with_stored_padding(
    model: Any,
    tokenizer: Any,
    policy: Callable[[int], Policy],
    prompts: Sequence[Sequence[int]],
    *,
    budget: int,
    padding: Sequence[int],
    max_new_tokens: int,
    batch_size: int = 8,
) -> list[Completion]:
    """Decode each prompt as if its padding lay in the cache and could never be evicted.

    In the published code padding counts as entries that must be kept. So a row with `p` tokens of
    padding has a budget of `budget - p` for its own entries. Here a sequence's tokens never depend
    on the other rows. So each row, decoded under its own smaller budget, gives what it would give
    in such a batch, and the runtime need not store padding.

    Args:
        model: as for `Engine`.
        tokenizer: as for `Engine`.
        policy: makes a policy of a budget in tokens, as the presets do.
        prompts: token ids of the prompts.
        budget: entries per KV head, padding included.
        padding: padding of each prompt, in tokens; see `stored_padding`.
        max_new_tokens: the most tokens decoded per prompt.
        batch_size: sequences decoded together; it does not change the answers.

    Returns:
        A completion per prompt, in their order.

    Raises:
        ConfigError: the rest of the budget is too small for the policy.

    Source: SkipKV (arXiv 2512.07993), observation 1, and its published code. Differs: the model
    never sees padding, which its attention mask hides in the published code as well.

    Example:
        >>> from skipkv import presets
        >>> from skipkv.testing import toy_model, toy_tokenizer
        >>> [first, second] = decode_with_stored_padding(
        ...     toy_model(), toy_tokenizer(), lambda b: presets.rkv(b, interval=8),
        ...     [[4, 5, 6, 7], [4, 5]], budget=20, padding=[0, 2], max_new_tokens=40,
        ... )
        >>> first.stats.peak_entries, second.stats.peak_entries
        (28, 26)
    """
    if len(padding) != len(prompts):
        raise ConfigError(f"padding must hold a number for each of the {len(prompts)} prompts.")
    engines = {}
    for stored in sorted(set(padding)):
        try:
            effective = policy(budget - stored)
        except ConfigError as error:
            raise ConfigError(
                f"Padding of {stored} tokens leaves {budget - stored} of a budget of {budget}: "
                f"{error}"
            ) from error
        engines[stored] = Engine(model, tokenizer, effective, batch_size=batch_size)
    found: dict[int, Completion] = {}
    for stored, engine in engines.items():
        own = [index for index, value in enumerate(padding) if value == stored]
        completions = engine.generate(
            [prompts[index] for index in own],
            max_new_tokens=max_new_tokens,
            sampling=Sampling(),
            progress=False,
        )
        for index, completion in zip(own, completions, strict=True):
            found[index] = attrs.evolve(completion, index=index)
    return [found[index] for index in range(len(prompts))]
