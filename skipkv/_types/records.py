"""Numbers that the cache keeps beside each entry, for parts that declare them."""

from collections.abc import Hashable, Iterator, Mapping
from typing import Any, Protocol, runtime_checkable

import attrs
import torch
from jaxtyping import Float, Int
from torch import Tensor

from skipkv._validators import is_a
from skipkv.errors import ConfigError


@runtime_checkable
class Record(Hashable, Protocol):
    """A float32 number per entry, which moves with its entry and is forgotten with it.

    There are three kinds. A `Statistic` is brought up to date with the attention that entries
    receive, at every token. A `Memory` is written by a scorer at every compression event. A
    `Written` is written by a scorer once, together with the entry. Records that are equal are one
    record, whichever parts ask for it.
    """

    @property
    def start(self) -> float:
        """What an entry has when it is cached."""
        ...


@runtime_checkable
class Statistic(Record, Protocol):
    """A record of the attention that an entry receives.

    Laws: tokens that come one by one or many at once give the same, and those before an entry's own
    change nothing of it; padding and empty slots change nothing; a row's values depend on that row
    alone; the arguments are not changed. `check_statistic` in the testing kit holds a statistic to
    them.
    """

    def update(
        self,
        held: Float[Tensor, "B H L"],
        weights: Float[Tensor, "B H G T L"],
        positions: Int[Tensor, "B T"],
    ) -> Float[Tensor, "B H L"]:
        """The values after some tokens.

        Args:
            held: the values before.
            weights: the attention that each query head of each token pays to each entry. It is 0
                for entries that come later, for empty slots, and for all where the token is
                padding.
            positions: of the tokens, ascending; -1 is padding.
        """
        ...


@runtime_checkable
class PairedStatistic(Record, Protocol):
    """A statistic of which `update` reads another one too, such as the time since a last time.

    The cache keeps the other one with it. The laws are those of a `Statistic`.
    """

    @property
    def reads(self) -> Statistic:
        """The other one."""
        ...

    def update(
        self,
        held: Float[Tensor, "B H L"],
        weights: Float[Tensor, "B H G T L"],
        positions: Int[Tensor, "B T"],
        read: Float[Tensor, "B H L"],
    ) -> Float[Tensor, "B H L"]:
        """The values after some tokens.

        Args:
            held: the values before.
            weights: as for a `Statistic`.
            positions: of the tokens, ascending; -1 is padding.
            read: the values of the other statistic before these tokens.
        """
        ...


@attrs.frozen
class Memory:
    """A record that a scorer writes at every event, in `remember`, and reads at the next one.

    Args:
        name: tells it from others. Two scorers with the same name and start share it, so put
            the name of the method into it. In a sum they must remember the same.
        start: what an entry has that no event has seen.

    Example:
        >>> Memory("g-kv")
        Memory(name='g-kv', start=0.0)
    """

    name: str = attrs.field(validator=is_a(str))
    start: float = attrs.field(default=0.0, validator=is_a(float), kw_only=True)


@attrs.frozen
class Written:
    """A record that a scorer writes together with an entry, in `on_write`.

    Args:
        name: tells it from others, so put the name of the method into it. A policy in which two
            different parts write one name is refused.

    Example:
        >>> Written("kvzap")
        Written(name='kvzap')
    """

    name: str = attrs.field(validator=is_a(str))

    @property
    def start(self) -> float:
        """What free slots have."""
        return 0.0


@attrs.frozen
class Sum:
    """All attention that an entry has received, summed over query heads: `view.attention`.

    Source: H2O (arXiv 2306.14048), section 4.
    """

    @property
    def start(self) -> float:
        """Nothing has been received."""
        return 0.0

    def update(
        self,
        held: Float[Tensor, "B H L"],
        weights: Float[Tensor, "B H G T L"],
        positions: Int[Tensor, "B T"],
    ) -> Float[Tensor, "B H L"]:
        """Add what each entry received.

        Args:
            held: the values before.
            weights: the attention of each query head of each token to each entry.
            positions: of the tokens; -1 is padding.
        """
        return held + weights.sum(dim=(2, 3))


@attrs.frozen(kw_only=True)
class Decayed:
    """Attention received, summed over query heads, of which each later token leaves a part.

    Entries that were needed long ago do not outweigh those that are needed now.

    Args:
        factor: what a token leaves of the sum before it, in (0, 1).

    Raises:
        ConfigError: `factor` is not between 0 and 1.
    """

    factor: float = attrs.field(validator=is_a(float))

    def __attrs_post_init__(self) -> None:
        if not 0 < self.factor < 1:
            raise ConfigError(
                f"Decayed(factor={self.factor}) must be between 0 and 1. Without decay, declare "
                "needs = Needs(attention=True)."
            )

    @property
    def start(self) -> float:
        """Nothing has been received."""
        return 0.0

    def update(
        self,
        held: Float[Tensor, "B H L"],
        weights: Float[Tensor, "B H G T L"],
        positions: Int[Tensor, "B T"],
    ) -> Float[Tensor, "B H L"]:
        """`factor * held + received`, token by token.

        Args:
            held: the values before.
            weights: the attention of each query head of each token to each entry.
            positions: of the tokens; -1 is padding.
        """
        real = (positions >= 0).to(held.dtype)
        later = real.flip(1).cumsum(dim=1).flip(1) - real  # tokens after each one, [B T]
        share = self.factor**later
        received = torch.einsum("bhgtl,bt->bhl", weights, share)
        return held * (self.factor ** real.sum(dim=1))[:, None, None] + received


@attrs.frozen
class Peak:
    """The largest weight that a query head of any token has given to an entry."""

    @property
    def start(self) -> float:
        """Nothing has been received."""
        return 0.0

    def update(
        self,
        held: Float[Tensor, "B H L"],
        weights: Float[Tensor, "B H G T L"],
        positions: Int[Tensor, "B T"],
    ) -> Float[Tensor, "B H L"]:
        """The larger of the two.

        Args:
            held: the values before.
            weights: the attention of each query head of each token to each entry.
            positions: of the tokens; -1 is padding.
        """
        return held.maximum(weights.amax(dim=(2, 3)))


def _is_below_one(part: object, field: "attrs.Attribute[float]", value: float) -> None:
    if not 0 <= value < 1:
        raise ConfigError(
            f"{type(part).__name__}({field.name}={value}) must be in [0, 1): weights of attention "
            "are at most 1."
        )


@attrs.frozen(kw_only=True)
class LastAbove:
    """The position of the last token of which a query head gave an entry more than a threshold.

    -1 where none did.

    Args:
        threshold: a weight, in [0, 1).

    Raises:
        ConfigError: `threshold` is below 0, or no weight is above it.

    Source: RaaS (arXiv 2502.11147), the time stamps of section 4.
    """

    threshold: float = attrs.field(validator=[is_a(float), _is_below_one])

    @property
    def start(self) -> float:
        """No token."""
        return -1.0

    def update(
        self,
        held: Float[Tensor, "B H L"],
        weights: Float[Tensor, "B H G T L"],
        positions: Int[Tensor, "B T"],
    ) -> Float[Tensor, "B H L"]:
        """The newest position at which a weight exceeds the threshold.

        Args:
            held: the values before.
            weights: the attention of each query head of each token to each entry.
            positions: of the tokens; -1 is padding.
        """
        above = weights.amax(dim=2) > self.threshold  # [B H T L]
        at = torch.where(above, positions[:, None, :, None].to(held.dtype), -1.0)
        return held.maximum(at.amax(dim=2))


@attrs.frozen(kw_only=True)
class LongestGap:
    """The most tokens from one that gave an entry more than a threshold to the next one that did.

    0 where there were not two. It is kept together with `LastAbove`, which says when the last was.

    Args:
        threshold: a weight, in [0, 1).

    Raises:
        ConfigError: `threshold` is below 0, or no weight is above it.

    Source: LazyEviction (arXiv 2506.15969), the maximum recurrence interval.

    Example:
        >>> LongestGap(threshold=0.01).reads
        LastAbove(threshold=0.01)
    """

    threshold: float = attrs.field(validator=[is_a(float), _is_below_one])

    @property
    def start(self) -> float:
        """No gap."""
        return 0.0

    @property
    def reads(self) -> LastAbove:
        """When the last time was."""
        return LastAbove(threshold=self.threshold)

    def update(
        self,
        held: Float[Tensor, "B H L"],
        weights: Float[Tensor, "B H G T L"],
        positions: Int[Tensor, "B T"],
        read: Float[Tensor, "B H L"],
    ) -> Float[Tensor, "B H L"]:
        """The longest of the gaps before and of those that end at these tokens.

        Args:
            held: the values before.
            weights: the attention of each query head of each token to each entry.
            positions: of the tokens; -1 is padding.
            read: the last position above the threshold before these tokens; -1 if none.
        """
        above = weights.amax(dim=2) > self.threshold  # [B H T L]
        at = torch.where(above, positions[:, None, :, None].to(held.dtype), -1.0)
        last = torch.cat([read[:, :, None], at], dim=2).cummax(dim=2).values  # before each token
        gaps = torch.where(above & (last[:, :, :-1] >= 0), at - last[:, :, :-1], 0.0)
        return held.maximum(gaps.amax(dim=2))


def updated(
    values: Mapping[Record, Float[Tensor, "B H L"]],
    weights: Float[Tensor, "B H G T L"],
    positions: Int[Tensor, "B T"],
) -> dict[Record, Float[Tensor, "B H L"]]:
    """The statistics among some records, after some tokens.

    Args:
        values: the records before.
        weights: the attention of each query head of each token to each entry.
        positions: of the tokens; -1 is padding.
    """
    given = arguments(values, weights, positions)
    return {statistic: statistic.update(*shown.values()) for statistic, shown in given}


def arguments(
    values: Mapping[Record, Float[Tensor, "B H L"]],
    weights: Float[Tensor, "B H G T L"],
    positions: Int[Tensor, "B T"],
) -> Iterator[tuple[Any, dict[str, Tensor]]]:
    """The statistics among some records, each with the arguments of its `update`, by name.

    Args:
        values: the records before.
        weights: the attention of each query head of each token to each entry.
        positions: of the tokens; -1 is padding.
    """
    for record, held in values.items():
        shown = {"held": held, "weights": weights, "positions": positions}
        if isinstance(record, PairedStatistic):
            yield record, {**shown, "read": values[record.reads]}
        elif isinstance(record, Statistic):
            yield record, shown
