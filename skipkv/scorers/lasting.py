"""What an entry was worth at earlier events counts too."""

from typing import TYPE_CHECKING

import attrs
from jaxtyping import Float
from torch import Tensor

from skipkv._calls import remembered_of
from skipkv._types import CacheView, Memory, Needs, needs_of
from skipkv._validators import is_a
from skipkv.errors import ConfigError
from skipkv.scorers.algebra import Remembered, ScorerAlgebra
from skipkv.scorers.relative import Relative

if TYPE_CHECKING:
    from skipkv.scorers.protocol import Scorer


@attrs.frozen(kw_only=True)
class Lasting(ScorerAlgebra):
    """The highest worth an entry has had, of which every event takes a part: max(f s', s / max s).

    s is the scorer's value at this event, over the largest of the head. s' is what was remembered
    at the last one. A window sees what matters to the current step; an entry that mattered to an
    earlier step keeps most of its worth.

    Args:
        scorer: its values must not be negative.
        factor: what remains from one event to the next, in [0, 1].

    Raises:
        ConfigError: `factor` outside its range.

    Source: G-KV (arXiv 2512.00504), with the window's attention as the scorer and a factor of 0.8.

    Example:
        >>> from skipkv.scorers import WindowAttention
        >>> Lasting(scorer=WindowAttention(window=16)).factor
        0.8
    """

    scorer: "Scorer"
    factor: float = attrs.field(default=0.8, validator=is_a(float))

    def __attrs_post_init__(self) -> None:
        if not 0 <= self.factor <= 1:
            raise ConfigError(
                f"Lasting(factor={self.factor}) must lie in [0, 1]: it is what remains of a worth "
                "from one event to the next. 0 remembers nothing."
            )

    @property
    def memory(self) -> Memory:
        """Where the worth is kept: a place of its own for every scorer and factor."""
        return Memory(f"{self.scorer!r}, lasting {self.factor}")

    @property
    def needs(self) -> Needs:
        """What the scorer needs, and the memory."""
        return needs_of(self.scorer) | Needs(records=(self.memory,))

    def score(self, view: CacheView) -> Float[Tensor, "R H L"]:
        """In [0, 1]."""
        now = Relative(scorer=self.scorer).score(view)
        return now.maximum(self.factor * view.record(self.memory))

    def remember(self, view: CacheView) -> Remembered:
        """The score, and what the scorer itself remembers."""
        return {**remembered_of(self.scorer, view), self.memory: self.score(view)}
