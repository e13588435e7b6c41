"""A free slot is filled at once."""

from collections.abc import Sequence
from typing import Literal, get_args

import attrs

from skipkv._types import Request
from skipkv.errors import ConfigError

Order = Literal["fifo", "shortest_prompt"]


@attrs.frozen(kw_only=True)
class Continuous:
    """Starts a waiting request as soon as a slot is free: continuous batching.

    Where answers differ in length, most slots of a static batch are empty while its longest answer
    is decoded. Here the next request takes the slot of a finished one. The decoded tokens do not
    depend on the order.

    Source: this library.

    Every request starts at some time. All requests of one call of `generate` wait from its
    beginning, so under either order each request is overtaken by each other one at most once. Under
    "shortest_prompt" the longest prompts start last.

    Args:
        order: which request starts first: "fifo", the one that came first, or "shortest_prompt",
            the one with the shortest prompt (of equal ones the earlier). Short prompts are read
            quickly and often ask for short answers, so the first completions come sooner. But long
            requests then start last, and decode while other slots are empty.

    Raises:
        ConfigError: `order` is neither.

    Example:
        >>> waiting = [
        ...     Request(index=i, prompt=[1] * length, max_new_tokens=1)
        ...     for i, length in enumerate([9, 2, 5, 2])
        ... ]
        >>> list(Continuous().admit(waiting, free=2, running=6))
        [0, 1]
        >>> list(Continuous(order="shortest_prompt").admit(waiting, free=3, running=5))
        [1, 3, 2]
    """

    order: Order = attrs.field(default="fifo")

    @order.validator
    def _known(self, _: object, value: object) -> None:
        if value not in get_args(Order):
            raise ConfigError(
                f"Continuous(order={value!r}) must be 'fifo' (in the order of the requests) or "
                "'shortest_prompt'."
            )

    def admit(self, waiting: Sequence[Request], *, free: int, running: int) -> Sequence[int]:
        """The first `free` requests in this order."""
        indices = range(len(waiting))
        if self.order == "shortest_prompt":
            return sorted(indices, key=lambda i: (waiting[i].prompt_tokens, i))[:free]
        return indices[:free]
