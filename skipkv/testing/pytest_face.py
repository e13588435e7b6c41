"""The laws as pytest tests: one test per law, named after it."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, TypeVar

import attrs
import pytest

from skipkv.errors import ConfigError
from skipkv.testing.laws.law import CounterExample, Law, check_claims, judge, search
from skipkv.testing.laws.protocols import held_to

Decorated = TypeVar("Decorated")


@attrs.define(eq=False)
class _Held:
    """A component and its laws. The tests of one process share it, in whatever order they run."""

    laws: Sequence[tuple[Law, Any]]
    claims: Mapping[str, str]
    examples: int
    _found: dict[str, CounterExample | None] = attrs.field(factory=dict)

    def test(self, law: Law, component: Any) -> None:
        """Hold the component to one law, unless it breaks a basic law that comes before."""
        for earlier, part in self.laws:
            if earlier is law:
                break
            if earlier.basic and earlier.name not in self.claims and self._broken(earlier, part):
                pytest.skip(
                    f"not tried: {part!r} breaks the law {earlier.name!r}. Mend that first."
                )
        broken = self._broken(law, component)
        judge(law, component, broken, claims=self.claims, examples=self.examples)
        if broken is not None:
            pytest.xfail(self.claims[law.name])

    def _broken(self, law: Law, component: Any) -> CounterExample | None:
        if law.name not in self._found:
            self._found[law.name] = search(law, component, examples=self.examples)
        return self._found[law.name]


def conformance(
    *components: Any, claims: Mapping[str, str] | None = None, examples: int = 50
) -> Callable[[Decorated], Decorated]:
    """Make one test per law of a component's protocol out of a test class or function.

    A class gets a method `test_law` beside its own tests. A function takes no arguments, and its
    body, if it has one, runs before each law. A law in `claims` shows as an expected failure with
    its reason, and fails if the component keeps it. Where a basic law is broken (protocol, answer,
    pure, needs), the tests of later laws are skipped.

    Args:
        components: scorers, evictors, segmenters, steerers, schedulers or policies. Each is held
            to the laws of the protocol whose shape it has.
        claims: laws that all of them break on purpose, each with the reason.
        examples: cases tried per law.

    Raises:
        ConfigError: a component has the shape of no protocol, or `claims` names no law.

    Example:
        >>> from skipkv.scorers import KeyNorm
        >>> @conformance(KeyNorm())
        ... def test_key_norm(): ...
        >>> @conformance(KeyNorm(), claims={"heads": "it depends on their order"})
        ... class TestKeyNorm: ...
    """
    if not components:
        raise ConfigError("conformance() takes at least one component: conformance(MyScorer()).")
    parameters = []
    for component in components:
        laws = held_to(component)
        check_claims([law for law, _ in laws], claims)
        held = _Held(laws, claims or {}, examples)
        for law, prepared in laws:
            name = law.name if len(components) == 1 else f"{component!r}-{law.name}"
            parameters.append(pytest.param(partial(held.test, law, prepared), id=name))
    each_law = pytest.mark.parametrize("law", parameters)

    def decorate(stub: Any) -> Any:
        if isinstance(stub, type):

            def test_law(self: Any, law: Callable[[], None]) -> None:
                law()

            stub.test_law = each_law(test_law)  # type: ignore[attr-defined]
            return stub
        if stub.__code__.co_argcount:
            raise ConfigError(
                f"{stub.__name__} must take no arguments: @conformance passes the laws."
            )

        def test(law: Callable[[], None]) -> None:
            stub()
            law()

        test.__name__, test.__doc__ = stub.__name__, stub.__doc__
        test.__module__, test.__qualname__ = stub.__module__, stub.__qualname__
        return each_law(test)

    return decorate
