"""Every law finds the component that breaks it, and says so in words that help."""

from importlib import import_module
from typing import Any

import pytest
from broken import BY_PROTOCOL

from skipkv.errors import ConfigError
from skipkv.evictors import KeepAll, TopK
from skipkv.scorers import KeyNorm, KeyRedundancy, Random
from skipkv.testing import ConformanceError, check_evictor, check_scorer, conformance, laws_of
from skipkv.testing.laws.law import Law, hold
from skipkv.testing.laws.policy import OnToy, scaled_down
from skipkv.testing.laws.steerer import Steered

LAWS = {name: import_module(f"skipkv.testing.laws.{name}").LAWS for name in BY_PROTOCOL}
PREPARED = {
    "steerer": lambda part: Steered(part, None),
    "policy": lambda part: OnToy(scaled_down(part), None),
}
EACH = [
    pytest.param(kind, law, id=f"{kind}-{law.name}") for kind, laws in LAWS.items() for law in laws
]


def broken_one(kind: str, law: Law) -> Any:
    return PREPARED.get(kind, lambda part: part)(BY_PROTOCOL[kind][law.name])


@pytest.mark.parametrize("kind", LAWS)
def test_there_is_a_broken_component_for_every_law(kind: str) -> None:
    assert list(BY_PROTOCOL[kind]) == [law.name for law in LAWS[kind]]


@pytest.mark.parametrize(("kind", "law"), EACH)
def test_a_law_finds_the_component_that_breaks_it(kind: str, law: Law) -> None:
    with pytest.raises(ConformanceError) as caught:
        hold(law, broken_one(kind, law), examples=10 if kind == "policy" else 100)
    message = str(caught.value)
    assert caught.value.law == law.name, message
    assert law.says in message
    assert law.why in message
    assert f'claims={{"{law.name}": ' in message


def test_the_message_shows_a_case_one_can_work_out_by_hand() -> None:
    with pytest.raises(ConformanceError) as caught:
        check_scorer(BY_PROTOCOL["scorer"]["finite"], examples=50)
    message = str(caught.value)
    assert "values       [[[[0]]]]\n    positions    [[[0]]]\n" in message
    assert "score gave the entry at [0, 0, 0] [[[inf]]]." in message


def test_what_a_component_raises_is_the_cause() -> None:
    class Failing:
        def score(self, view: Any) -> Any:
            raise RuntimeError("out of order")

    with pytest.raises(ConformanceError, match="raised RuntimeError: out of order") as caught:
        hold(law_of(KeyNorm(), "finite"), Failing())
    assert isinstance(caught.value.__cause__, RuntimeError)


def test_a_claimed_law_may_be_broken() -> None:
    check_evictor(KeepAll(), claims={"budget": "it is the full cache"}, examples=30)


def test_a_claim_that_is_not_true_is_an_error() -> None:
    with pytest.raises(ConformanceError, match=r"'heads' \(old habit\), but kept it"):
        hold(law_of(KeyNorm(), "heads"), KeyNorm(), claims={"heads": "old habit"}, examples=5)


@pytest.mark.parametrize(
    ("claims", "message"),
    [
        ({"haeds": "a reason"}, "claims names 'haeds', which is no law here: protocol, needs"),
        ({"heads": " "}, r"claims\['heads'\] must say why"),
    ],
)
def test_a_claim_names_a_law_and_gives_a_reason(claims: dict[str, str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        check_scorer(KeyNorm(), claims=claims)
    with pytest.raises(ConfigError, match=message):
        conformance(KeyNorm(), claims=claims)


def test_an_attribute_with_the_name_of_a_method_makes_no_evictor() -> None:
    """KeyRedundancy(keep="first") scores."""
    assert laws_of(KeyRedundancy(keep="first")) == laws_of(KeyNorm())


@pytest.mark.parametrize(("thing", "message"), [(object(), "of none"), (TopK, "the class TopK")])
def test_what_is_no_component_is_refused(thing: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        laws_of(thing)


def law_of(component: Any, name: str) -> Law:
    return next(law for law in laws_of(component) if law.name == name)


@conformance(TopK(), examples=5)
class TestAClass:
    def test_tests_of_its_own_stay(self) -> None:
        assert callable(self.test_law)


ran: list[str] = []


@conformance(Random(), claims={"heads": "noise differs from head to head"}, examples=20)
def test_a_function() -> None:
    """Its body runs before each law."""
    ran.append("body")


def test_one_test_is_made_per_law() -> None:
    [mark] = [mark for mark in test_a_function.pytestmark if mark.name == "parametrize"]
    assert [parameter.id for parameter in mark.args[1]] == [law.name for law in laws_of(Random())]
    assert test_a_function.__doc__ == "Its body runs before each law."
    assert len(ran) in (0, len(laws_of(Random())))  # 0 where this test is run alone


def test_several_components_have_their_names_in_the_tests() -> None:
    @conformance(TopK(), KeyNorm())
    def both() -> None: ...

    ids = [parameter.id for parameter in both.pytestmark[0].args[1]]
    assert "TopK()-budget" in ids
    assert "KeyNorm()-finite" in ids


def test_a_function_with_arguments_is_refused() -> None:
    with pytest.raises(ConfigError, match="must take no arguments"):

        @conformance(TopK())
        def takes_one(law: Any) -> None: ...
