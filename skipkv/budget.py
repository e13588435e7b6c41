"""How many entries the cache may hold: of a head, and of layers that differ."""

import math
from collections.abc import Sequence
from fractions import Fraction

import attrs
from jaxtyping import Bool, Int
from torch import Tensor

from skipkv._shares import ceil_of
from skipkv._validators import is_a
from skipkv.errors import ConfigError

__all__ = ["Budget", "LinearShares"]


@attrs.frozen
class LinearShares:
    """Layers whose room falls linearly from the first to the last, as in PyramidKV.

    The last layer gets `1 / beta` of the mean, the first one `2 - 1 / beta`.

    Args:
        beta: the mean over the last layer's share; above 1/2. Above 1 the room falls with depth,
            below 1 it grows.

    Raises:
        ConfigError: `beta` is at most 1/2, which would leave nothing to the first layer.

    Source: PyramidKV (arXiv 2406.02069), equations 2 and 3.

    Example:
        >>> LinearShares(beta=4).of(3)
        (1.75, 1.0, 0.25)
    """

    beta: float = attrs.field(default=20.0, validator=is_a(float))

    def __attrs_post_init__(self) -> None:
        if not 0.5 < self.beta < math.inf:
            raise ConfigError(
                f"LinearShares(beta={self.beta}) must be finite and exceed 1/2: it is the mean "
                "over the last layer's share, and the first layer gets 2 - 1 / beta."
            )

    def of(self, layers: int) -> tuple[float, ...]:
        """The share of each layer; their mean is 1."""
        if layers == 1:
            return (1.0,)
        last = 1 / self.beta
        slope = 2 * (1 - last) / (layers - 1)
        return tuple(2 - last - slope * layer for layer in range(layers))


def _shares(given: object) -> object:
    """A list, an array or a tensor as a tuple, so that the budget can be hashed."""
    given = given.tolist() if hasattr(given, "tolist") else given
    return tuple(given) if isinstance(given, list) else given


@attrs.frozen(kw_only=True)
class Budget:
    """How many entries a row may hold per KV head, and which of them are never dropped.

    Either `tokens` or `ratio` says how many entries remain after a compression event. Events follow
    the forward pass that appends token number k * interval + 1 of a sequence (as in the published
    implementations), and the end of a prompt that exceeds the budget.

    Under `tokens` a row never holds more than budget + interval entries: a longer prompt is fed in
    pieces, with an event after each. Under a `ratio` a prompt is fed whole, since the ratio refers
    to the whole prompt.

    Args:
        tokens: entries kept, in tokens.
        ratio: entries kept, as a share of the tokens seen so far, in (0, 1].
        interval: decode steps between two compression events, in tokens.
        window: most recent tokens, always kept.
        sinks: first tokens of the sequence, always kept.
        prompt: keep the whole prompt as well.
        layers: how layers divide `tokens`, which is then what a layer holds on average: a number
            for each layer whose entries are evicted, in proportion to its share, or
            `LinearShares`. By default all layers hold equally many. See `of_layers`.

    Raises:
        ConfigError: unless exactly one of `tokens` and `ratio` is given and `tokens` leaves room
            beside what is protected; or `layers` are not shares of `tokens`.

    Example:
        >>> Budget(tokens=1024, window=8).capacity
        1152
    """

    tokens: int | None = attrs.field(default=None, validator=is_a(int, optional=True))
    ratio: float | None = attrs.field(default=None, validator=is_a(float, optional=True))
    interval: int = attrs.field(default=128, validator=is_a(int))
    window: int = attrs.field(default=8, validator=is_a(int, least=0))
    sinks: int = attrs.field(default=0, validator=is_a(int, least=0))
    prompt: bool = attrs.field(default=False, validator=is_a(bool))
    layers: LinearShares | tuple[float, ...] | None = attrs.field(default=None, converter=_shares)

    def __attrs_post_init__(self) -> None:
        if (self.tokens is None) == (self.ratio is None):
            raise ConfigError(
                f"Budget takes either tokens or ratio, got tokens={self.tokens!r} and "
                f"ratio={self.ratio!r}. Give exactly one."
            )
        if self.interval < 1:
            raise ConfigError(
                f"Budget(interval={self.interval}) must be at least 1: it is the number of decode "
                "steps from one compression event to the next."
            )
        if self.tokens is not None and self.tokens <= self.window + self.sinks:
            raise ConfigError(
                f"Budget(tokens={self.tokens}) must exceed the window and sinks it protects "
                f"({self.window} + {self.sinks}). Raise tokens or shrink them."
            )
        if self.ratio is not None and not 0 < self.ratio <= 1:
            raise ConfigError(f"Budget(ratio={self.ratio}) must lie in (0, 1].")
        self._check_layers()

    def _check_layers(self) -> None:
        given = self.layers
        if given is None:
            return
        if self.ratio is not None:
            raise ConfigError(
                "Budget(layers=...) divides a number of tokens: give tokens instead of ratio."
            )
        if isinstance(given, LinearShares):
            return
        numbers = isinstance(given, tuple) and all(
            isinstance(n, int | float) and not isinstance(n, bool) for n in given
        )
        if not numbers or not all(0 <= n < math.inf for n in given) or not sum(given):
            raise ConfigError(
                f"Budget(layers={given!r}) must be LinearShares or a number for each layer, none "
                "negative and not all 0: layers divide the tokens in proportion to them."
            )

    @property
    def capacity(self) -> int | None:
        """Entries a row may hold between events, budget + interval; None under a `ratio`.

        Where layers differ it is their mean.
        """
        return None if self.tokens is None else self.tokens + self.interval

    def of_layers(self, count: int) -> "tuple[Budget, ...]":
        """The budget of each layer.

        Beside what is protected every layer gets one entry, and what remains is divided by
        `layers`, rounded so that all layers together hold exactly `count * tokens`.

        Args:
            count: how many layers divide it: those whose entries are evicted.

        Raises:
            ConfigError: `layers` has a share for another number of layers.

        Example:
            >>> [b.tokens for b in Budget(tokens=100, layers=LinearShares(beta=20)).of_layers(4)]
            [186, 129, 71, 14]
        """
        if self.layers is None:
            return (self,) * count
        shares = self.layers
        if isinstance(shares, LinearShares):
            shares = shares.of(count)
        if len(shares) != count:
            raise ConfigError(
                f"Budget(layers=...) has {len(shares)} shares, and {count} layers of the model "
                "are cached under the budget. Give one share for each of them."
            )
        assert self.tokens is not None  # held by the constructor
        least = self.window + self.sinks + 1
        room = divided((self.tokens - least) * count, shares)
        return tuple(attrs.evolve(self, tokens=least + more, layers=None) for more in room)

    def least(self, count: int) -> "Budget":
        """The smallest budget among so many layers."""
        return min(self.of_layers(count), key=lambda budget: budget.tokens or 0)

    def allowed(self, seen: int, prompt: int = 0) -> int:
        """Entries per head a row may keep after an event; where layers differ, on average.

        Under a ratio it is at least one entry more than are protected.

        Args:
            seen: tokens the row's sequence has seen.
            prompt: length of its prompt, in tokens; used if the prompt is protected.
        """
        if self.tokens is not None:
            return self.tokens
        assert self.ratio is not None  # held by the constructor
        first = max(self.sinks, prompt) if self.prompt else self.sinks
        return max(ceil_of(self.ratio, seen), first + self.window + 1)

    def protected(
        self, positions: Int[Tensor, "R H L"], seen: Int[Tensor, "R"], prompt: Int[Tensor, "R"]
    ) -> Bool[Tensor, "R H L"]:
        """Entries that an evictor must keep: window, sinks and, if asked for, the prompt.

        Args:
            positions: positions of the entries; -1 in empty slots.
            seen: tokens seen by each row's sequence.
            prompt: length of its prompt, in tokens.
        """
        first = prompt.clamp_min(self.sinks) if self.prompt else prompt.new_full((), self.sinks)
        kept = (positions < first.reshape(-1, 1, 1)) | (
            positions >= (seen - self.window)[:, None, None]
        )
        return kept & (positions >= 0)


def divided(whole: int, shares: Sequence[float]) -> list[int]:
    """A whole number in parts proportional to shares, by the largest remainders.

    Args:
        whole: the sum of the parts.
        shares: not negative, and not all 0.

    Example:
        >>> divided(10, [1.0, 1.0, 1.0])
        [4, 3, 3]
    """
    exact = [Fraction(share) for share in shares]  # sums of floats round
    quotas = [whole * share / sum(exact) for share in exact]
    parts = [math.floor(quota) for quota in quotas]
    order = sorted(range(len(parts)), key=lambda i: parts[i] - quotas[i])
    for i in order[: whole - sum(parts)]:
        parts[i] += 1
    return parts
