"""Candidates: policies without a budget, with the labels they have in tables."""

import inspect
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import attrs

from skipkv._settings import STEERING, Settings, takes
from skipkv.compositions import build, described, own_settings, read_name
from skipkv.errors import ConfigError
from skipkv.evaluation.cells import FULL
from skipkv.policy import Policy

_OPTION = re.compile(r"([A-Za-z_]\w*)=(.*)", re.DOTALL)


@attrs.frozen(kw_only=True)
class Candidate:
    """A policy under a label, to be built at any budget.

    Args:
        label: its name in records and tables.
        source: a finished `Policy`, which keeps its own budget; or a callable such as a preset,
            which takes a `budget` and perhaps an `interval` and returns a policy.
        options: further arguments for the callable; a `vector` (and `strength`, `growth`) steers.
        own: the model's own arguments; `options` replace them.

    Example:
        >>> from skipkv import presets
        >>> candidate = Candidate(label="eager", source=presets.skipkv, options={"threshold": 0.9})
        >>> candidate.policy(budget=64, interval=16).budget.capacity
        80
    """

    label: str
    source: Policy | Callable[..., Any]
    options: Mapping[str, Any] = attrs.field(factory=dict)
    own: Mapping[str, Any] = attrs.field(factory=dict)

    def __attrs_post_init__(self) -> None:
        if "budget" in self.options:
            raise ConfigError(
                f"Policy {self.label} says budget={self.options['budget']}, and the budgets are "
                "given apart. Drop it: --budgets names them for all policies."
            )
        for option in self.options:
            if isinstance(self.source, Policy):
                raise ConfigError(
                    f"Policy {self.label} is a finished Policy and takes no {option}."
                )
            if option not in STEERING and not takes(self.source, option):
                there = ", ".join(inspect.signature(self.source).parameters) or "nothing"
                raise ConfigError(f"Policy {self.label} takes no {option}. It takes: {there}.")

    @classmethod
    def parse(cls, text: str, *, settings: Settings | None = None) -> "Candidate":
        """The candidate of a name on the command line.

        Args:
            text: the name, as for `skipkv.compositions.resolve_policy`. It becomes the label.
            settings: a model's own, from `model_settings`; None uses the published ones. Budget and
                interval are left out, since `policy` takes them.

        Raises:
            ConfigError: there is no such policy, or an option is not written `name=value`.
        """
        source, options = read_name(text, settings=settings)
        own = own_settings(text, settings)
        own = {key: value for key, value in own.items() if key not in ("budget", "interval")}
        return cls(label=text, source=source, options=options, own=own)

    @property
    def note(self) -> str | None:
        """One line with the settings that come from the model; None without any."""
        return described(self.label, self.own, self.options)

    @property
    def takes_budget(self) -> bool:
        """Whether it has a cell for every budget, instead of a single one."""
        return not isinstance(self.source, Policy) and takes(self.source, "budget")

    def policy(self, *, budget: int | None, interval: int | None) -> Policy:
        """The policy at a budget.

        Args:
            budget: entries per KV head, in tokens; None for a candidate without a budget.
            interval: decode steps between two events; unused if the candidate does not take it.

        Raises:
            ConfigError: it cannot be built with these; the message names the candidate.
        """
        if isinstance(self.source, Policy):
            return self.source
        options = {**self.own, **self.options}
        if budget is not None:
            options["budget"] = budget
        if interval is not None and takes(self.source, "interval"):
            options.setdefault("interval", interval)
        try:
            return build(self.source, self.label, options)
        except ConfigError as error:
            if self.label in str(error) or budget is None:
                raise
            raise ConfigError(f"Policy {self.label} at a budget of {budget}: {error}") from error


def full() -> Candidate:
    """The full cache, the baseline of every sweep."""
    from skipkv import presets

    return Candidate(label=FULL, source=presets.full)


def parse_candidates(texts: Iterable[str], *, settings: Settings | None = None) -> list[Candidate]:
    """Candidates from comma-separated lists; after a comma, `name=value` is one more option.

    Args:
        texts: the lists.
        settings: as for `Candidate.parse`.

    Example:
        >>> [c.label for c in parse_candidates(["full,skipkv:threshold=0.9,pool=5", "rkv"])]
        ['full', 'skipkv:threshold=0.9,pool=5', 'rkv']
    """
    found: list[str] = []
    for text in texts:
        for piece in text.split(","):
            if found and _OPTION.fullmatch(piece.strip()) and ":" in found[-1]:
                found[-1] += f",{piece.strip()}"
            elif piece.strip():
                found.append(piece.strip())
    return [Candidate.parse(text, settings=settings) for text in found]
