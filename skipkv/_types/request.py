"""A prompt that waits for a slot, or is decoded in one."""

from collections.abc import Iterable, Sequence
from typing import Any

import attrs
from attrs.validators import min_len

from skipkv._validators import is_a


def _ids(values: Iterable[Any]) -> tuple[Any, ...]:
    return tuple(values)


@attrs.frozen(kw_only=True)
class Request:
    """One sequence to decode, as a scheduler sees it.

    Args:
        index: number of its prompt in the call of `generate`, or among those submitted to a
            server, from 0.
        prompt: token ids of the prompt; never empty.
        max_new_tokens: most tokens to decode.
        seed: seed of this request's own random numbers, which depend on nothing else.
        sample: which sample of its prompt, from 0.
    """

    index: int = attrs.field(validator=is_a(int, least=0))
    prompt: Sequence[int] = attrs.field(converter=_ids, validator=min_len(1), repr=False)
    max_new_tokens: int = attrs.field(validator=is_a(int, least=1))
    seed: int = attrs.field(default=0, validator=is_a(int))
    sample: int = attrs.field(default=0, validator=is_a(int, least=0))

    @property
    def prompt_tokens(self) -> int:
        """Length of the prompt in tokens."""
        return len(self.prompt)
