"""Every freed slot is filled at once."""

from collections.abc import Sequence
from typing import Literal, get_args

import attrs

from skipkv._types import Request
from skipkv.errors import ConfigError

Order = Literal["fifo", "shortest_prompt"]


@attrs.frozen(kw_only=True)
class Continuous:
    """Starts a waiting request as soon as a slot is free, whatever the other slots are doing.

    Continuous batching: where answers differ in length, a static batch decodes its longest answer
    in slots that are mostly empty; here the next request takes the place of one that is done. What
    is decoded does not depend on the order.

    Source: this library.

    No request starves. All requests of one call to `generate` wait from its beginning and none
    joins them later, so each is overtaken by the others at most once, under either order; under
    "shortest_prompt" the longest prompts start last.

    Args:
        order: who goes first: "fifo", the request that came first, or "shortest_prompt", the one
            with the shortest prompt; of equal ones the earlier request. Short prompts are read
            quickly and often ask for short answers, so that the first completions come sooner; but
            what is long and comes last runs on when the other slots are empty.

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
                f"Continuous(order={value!r}) must be 'fifo' (who came first starts first) or "
                "'shortest_prompt'."
            )

    def admit(self, waiting: Sequence[Request], *, free: int, running: int) -> Sequence[int]:
        """The first `free` requests in this order."""
        indices = range(len(waiting))
        if self.order == "shortest_prompt":
            return sorted(indices, key=lambda i: (waiting[i].prompt_tokens, i))[:free]
        return indices[:free]
