"""A law of a protocol, and the search for a case in which a component breaks it."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import attrs
from hypothesis import HealthCheck, Phase, Verbosity, given, settings
from hypothesis import strategies as st
from hypothesis.errors import Flaky, HypothesisException

from skipkv.errors import ConfigError
from skipkv.testing.laws.shown import shown

# A component may be of any type: the first law checks whether it has the shape of its protocol.
Component = Any


class ConformanceError(AssertionError):
    """A component breaks a law of its protocol, or keeps a law that it claims to break.

    Args:
        message: text of the error.
        law: name of the law.
    """

    def __init__(self, message: str, *, law: str) -> None:
        super().__init__(message)
        self.law = law


class Broken(AssertionError):
    """Raised inside a law's check; the message says what happened in this case."""


@attrs.define
class Case:
    """Draws values for a check and records them by name, to show the counter-example."""

    _data: Any
    drawn: list[str] = attrs.field(factory=list)

    def draw(self, name: str, strategy: Any) -> Any:
        """A value of the strategy; the message shows it under `name`."""
        value = self._data.draw(strategy)
        # recorded at once: a component that is not pure may change it
        text = shown(value)
        self.drawn.append(f"{name}:{text}" if text.startswith("\n") else f"{name}: {text}")
        return value


@attrs.frozen(kw_only=True)
class Law:
    """One sentence that every component of a protocol must make true.

    Args:
        name: short name, as in `claims={"heads": "why"}`.
        says: the sentence that must be true.
        why: what goes wrong in the runtime, or for the user, if it is not.
        check: function of the component and a `Case` to draw from; raises `Broken` (or any other
            exception) in a case where the law does not hold.
        basic: the laws after this one say nothing about a component that breaks it. They are not
            tried then, so that a wrong shape is reported once and not by every law.

    Example:
        >>> from skipkv.testing import laws_of
        >>> from skipkv.scorers import KeyNorm
        >>> [law.name for law in laws_of(KeyNorm())][:3]
        ['protocol', 'answer', 'pure']
    """

    name: str
    says: str
    why: str
    check: Callable[[Component, Case], None] = attrs.field(repr=False)
    basic: bool = False


@attrs.frozen(kw_only=True)
class CounterExample:
    """The smallest case found in which a component breaks a law.

    Args:
        law: the law.
        component: repr of the component.
        case: the drawn values as text.
        what: what happened.
        cause: the exception that the component raised, if it raised one.
    """

    law: Law
    component: str
    case: str
    what: str
    cause: Exception | None = None

    def __str__(self) -> str:
        lines = [f"{self.component} breaks the law {self.law.name!r}: {self.law.says}", ""]
        if self.case:
            lines += ["Smallest case found:", _indented(self.case), ""]
        lines += [
            "What happened:",
            _indented(self.what),
            "",
            f"What the law is for: {self.law.why}",
            "If the component breaks it on purpose, declare that: "
            f'claims={{"{self.law.name}": "the reason"}}.',
        ]
        return "\n".join(lines)


def search(law: Law, component: Component, *, examples: int) -> CounterExample | None:
    """The smallest case in which `component` breaks `law`; None if no example does.

    The search is the same at every call: it has no random seed and no data base of examples.
    """
    found: list[CounterExample] = []

    @settings(
        max_examples=examples,
        derandomize=True,
        database=None,
        deadline=None,
        phases=[Phase.generate, Phase.shrink],
        report_multiple_bugs=False,
        suppress_health_check=list(HealthCheck),
        verbosity=Verbosity.quiet,
    )
    @given(st.data())
    def attempt(data: Any) -> None:
        case = Case(data)
        try:
            law.check(component, case)
        except HypothesisException:
            raise
        except Exception as error:
            raised = not isinstance(error, Broken)
            found[:] = [
                CounterExample(
                    law=law,
                    component=repr(component),
                    case="\n".join(case.drawn),
                    what=f"raised {type(error).__name__}: {error}" if raised else str(error),
                    cause=error if raised else None,
                )
            ]
            raise

    try:
        attempt()
    except Flaky:  # it broke the law once, but not in the same case tried again
        [last] = found
        again = "In the same case the law held when tried again: the answer changes from call to "
        return attrs.evolve(last, what=f"{last.what}\n{again}call.")
    except HypothesisException:
        raise
    except Exception:
        [last] = found  # Hypothesis replays the smallest case last
        return last
    return None


def hold(
    law: Law, component: Component, *, claims: Mapping[str, str] | None = None, examples: int = 50
) -> CounterExample | None:
    """Search for a case in which a component breaks one law, and judge it by its claims.

    Returns:
        None where the law holds; the counter-example where it is broken and claimed to be.

    Raises:
        ConformanceError: the law is broken and not claimed, or claimed and not broken.
    """
    broken = search(law, component, examples=examples)
    judge(law, component, broken, claims=claims, examples=examples)
    return broken


def judge(
    law: Law,
    component: Component,
    broken: CounterExample | None,
    *,
    claims: Mapping[str, str] | None,
    examples: int,
) -> None:
    """Raise `ConformanceError` unless what a search found is what the component claims."""
    reason = (claims or {}).get(law.name)
    if broken is not None and reason is None:
        raise ConformanceError(str(broken), law=law.name) from broken.cause
    if broken is None and reason is not None:
        raise ConformanceError(
            f"{component!r} claims to break the law {law.name!r} ({reason}), but kept it in "
            f"{examples} cases. The law: {law.says} Remove the claim, or try more cases: "
            f"examples={10 * examples}.",
            law=law.name,
        )


def hold_all(
    laws: Sequence[Law], component: Component, claims: Mapping[str, str] | None, examples: int
) -> None:
    """Hold a component to all laws, one after the other; the first broken law raises."""
    check_claims(laws, claims)
    for law in laws:
        hold(law, component, claims=claims, examples=examples)


def check_claims(laws: Sequence[Law], claims: Mapping[str, str] | None) -> None:
    """Raise `ConfigError` unless every claim names a law and gives a reason."""
    names = [law.name for law in laws]
    for name, reason in (claims or {}).items():
        if name not in names:
            raise ConfigError(
                f"claims names {name!r}, which is not one of its laws: {', '.join(names)}."
            )
        if not reason.strip():
            raise ConfigError(f"claims[{name!r}] must say why the component breaks that law.")


def _indented(text: str) -> str:
    return "\n".join(f"  {line}" for line in text.splitlines())
