"""The laws of a component: those of every protocol whose shape it has."""

import inspect
from collections.abc import Callable, Iterator
from typing import Any

import attrs

from skipkv._types import Statistic
from skipkv.errors import ConfigError
from skipkv.evictors import Evictor
from skipkv.policy import Policy
from skipkv.schedulers import BatchScheduler
from skipkv.scorers import Scorer
from skipkv.segmenters import Segmenter
from skipkv.steerers import Steerer
from skipkv.testing.laws import (
    evictor,
    policy,
    scheduler,
    scorer,
    segmenter,
    statistic,
    steerer,
)
from skipkv.testing.laws.law import Law


@attrs.frozen
class _Kind:
    protocol: type
    laws: tuple[Law, ...]
    prepared: Callable[[Any], Any]  # what the checks of these laws take


def _itself(component: Any) -> Any:
    return component


_KINDS = (
    _Kind(Policy, policy.LAWS, lambda part: policy.OnToy(policy.scaled_down(part), None)),
    _Kind(Segmenter, segmenter.LAWS, _itself),
    _Kind(Scorer, scorer.LAWS, _itself),
    _Kind(Evictor, evictor.LAWS, _itself),
    _Kind(Steerer, steerer.LAWS, lambda part: steerer.Steered(part, None)),
    _Kind(BatchScheduler, scheduler.LAWS, _itself),
    _Kind(Statistic, statistic.LAWS, _itself),
)


def laws_of(component: Any) -> tuple[Law, ...]:
    """The laws of the protocol whose shape `component` has.

    Args:
        component: a part or a policy.

    Raises:
        ConfigError: it has the shape of no protocol.

    Example:
        >>> from skipkv.schedulers import Continuous
        >>> [law.name for law in laws_of(Continuous())][-1]
        'conservation'
    """
    return tuple(law for law, _ in held_to(component))


def held_to(component: Any) -> list[tuple[Law, Any]]:
    """Each law, with the prepared component that its check takes."""
    found = list(_held_to(component))
    if not found or isinstance(component, type):
        names = ", ".join(kind.protocol.__name__ for kind in _KINDS)
        got = f"the class {component.__name__}" if isinstance(component, type) else component
        raise ConfigError(
            f"A component must have the shape of one of {names}; {got!r} has the shape of none. "
            "Pass an instance, and compare its methods with those of the protocol."
        )
    return found


def _held_to(component: Any) -> Iterator[tuple[Law, Any]]:
    for kind in _KINDS:
        if _has_the_methods(component, kind.protocol):
            prepared = kind.prepared(component)
            yield from ((law, prepared) for law in kind.laws)


def _has_the_methods(component: Any, protocol: type) -> bool:
    """Like `isinstance`, but members must be methods: KeyRedundancy.keep is a string."""
    if protocol is Policy:
        return isinstance(component, Policy)
    members = {name: m for name, m in vars(protocol).items() if not name.startswith("_")}
    return all(
        callable(getattr(component, name, None)) if inspect.isfunction(member) else True
        for name, member in members.items()
    )
