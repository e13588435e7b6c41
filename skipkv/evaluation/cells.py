"""Budgets of a sweep, in tokens or percent, and cells: what a sweep measures."""

import math
from typing import Any

import attrs

from skipkv._validators import is_a
from skipkv.errors import ConfigError


@attrs.frozen(kw_only=True)
class BudgetPoint:
    """A budget in tokens, or in percent of the full cache's mean trace on the same data set.

    With percents, one list of budgets fits data sets whose traces differ tenfold in length.

    Args:
        tokens: entries per KV head.
        percent: percent of the mean length of prompt and decoded tokens together, in (0, 100].

    Raises:
        ConfigError: not exactly one of the two is given, or it is out of range.

    Example:
        >>> BudgetPoint.parse("25%").tokens_of(mean_trace=400.0), str(BudgetPoint.parse(96))
        (100, '96')
    """

    tokens: int | None = attrs.field(default=None, validator=is_a(int, least=1, optional=True))
    percent: float | None = attrs.field(default=None, validator=is_a(float, optional=True))

    def __attrs_post_init__(self) -> None:
        if (self.tokens is None) == (self.percent is None):
            raise ConfigError("BudgetPoint takes either tokens or percent. Give exactly one.")
        if self.percent is not None and not 0 < self.percent <= 100:
            raise ConfigError(f"A budget of {self.percent:g}% must lie in (0%, 100%].")

    @classmethod
    def parse(cls, value: "str | int | BudgetPoint") -> "BudgetPoint":
        """Read a budget: `96` or "96" is in tokens, "25%" in percent.

        Raises:
            ConfigError: the value is neither.
        """
        if isinstance(value, BudgetPoint):
            return value
        text = str(value).strip()
        try:
            if text.endswith("%"):
                return cls(percent=_finite(text[:-1]))
            return cls(tokens=int(text))
        except ValueError as error:
            if isinstance(error, ConfigError):
                raise
            raise ConfigError(
                f"Budget {value!r} is neither a whole number of tokens nor a percentage. Write "
                "256, or 25%."
            ) from None

    def tokens_of(self, mean_trace: float | int) -> int:
        """The budget in tokens, given the mean length of the full cache's traces."""
        if self.tokens is not None:
            return self.tokens
        assert self.percent is not None  # held by the constructor
        return max(1, round(self.percent / 100 * mean_trace))

    def __str__(self) -> str:
        return str(self.tokens) if self.percent is None else f"{self.percent:g}%"


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError
    return value


@attrs.frozen(kw_only=True)
class Cell:
    """One policy at one budget on one data set: what a row of the table shows.

    Args:
        data: name of the data set.
        policy: label of the policy.
        asked: the requested budget, "96" or "25%"; None for a policy without a budget.
        budget: the same in tokens.

    Example:
        >>> print(Cell(data="tiny", policy="rkv", asked="25%", budget=96))
        tiny: rkv at 25% (96 tokens)
    """

    data: str
    policy: str
    asked: str | None = None
    budget: int | None = None

    @property
    def is_full(self) -> bool:
        """Whether this is the full cache, the baseline."""
        return self.policy == FULL

    @classmethod
    def of(cls, fields: "dict[str, Any]") -> "Cell":
        """The cell named by the fields of a record."""
        return cls(**{name: fields[name] for name in ("data", "policy", "asked", "budget")})

    def __str__(self) -> str:
        if self.asked is None:
            return f"{self.data}: {self.policy}"
        tokens = f" ({self.budget} tokens)" if self.asked.endswith("%") else ""
        return f"{self.data}: {self.policy} at {self.asked}{tokens}"


FULL = "full"
"""The label of the full cache, which every sweep runs first."""
