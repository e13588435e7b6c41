"""Every law finds the component that breaks it, and says so in words that help."""

from importlib import import_module
from typing import Any

import pytest
import torch
from broken import BY_PROTOCOL

from skipkv import Needs, presets
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
    assert set(BY_PROTOCOL[kind]) == {law.name for law in LAWS[kind]}


@pytest.mark.parametrize(("kind", "law"), EACH)
def test_a_law_finds_the_component_that_breaks_it(kind: str, law: Law) -> None:
    with pytest.raises(ConformanceError) as caught:
        hold(law, broken_one(kind, law), examples=10 if kind == "policy" else 50)
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
        (
            {"haeds": "a reason"},
            "claims names 'haeds', which is not one of its laws: protocol, answer",
        ),
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


@pytest.mark.parametrize(
    ("thing", "message"), [(object(), "shape of none"), (TopK, "the class TopK")]
)
def test_what_is_no_component_is_refused(thing: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        laws_of(thing)


class WrongShape:
    """Scores a row and head, not a slot."""

    def score(self, view: Any) -> Any:
        return view.values.float().sum(dim=(-1, -2))


class Raising:
    def score(self, view: Any) -> Any:
        raise RuntimeError("out of order")


class Overwriting:
    """Changes the keys, and so scores another view the second time."""

    def score(self, view: Any) -> Any:
        view.keys.mul_(2.0)
        return view.keys.sum(dim=-1)


class Undeclared:
    """Reads every need of a view, and declares nothing."""

    def score(self, view: Any) -> Any:
        logits = (view.queries.sum(dim=(2, 3))[:, :, None] * view.keys).sum(dim=-1)
        return logits + view.attention + view.sentence_ids


class KeepsFloats:
    def keep(self, scores: Any, view: Any, budget: int) -> Any:
        return scores


class CutsAtNumbers:
    def cut(self, stream: Any) -> Any:
        return [1, 2]


class AdmitsText:
    def admit(self, waiting: Any, *, free: int, running: int) -> Any:
        return "first"


class AddsARow:
    layer = 0

    def delta(self, hidden: Any, context: Any) -> Any:
        return hidden[:1]


FIRST_BROKEN = [
    (WrongShape(), "answer"),
    (Raising(), "answer"),
    (Overwriting(), "pure"),
    (Undeclared(), "needs"),
    (KeepsFloats(), "answer"),
    (CutsAtNumbers(), "answer"),
    (AdmitsText(), "answer"),
    (AddsARow(), "answer"),
]


@pytest.mark.parametrize(("component", "law"), FIRST_BROKEN)
def test_only_the_law_that_is_really_broken_fails_and_the_later_ones_name_it(
    component: Any, law: str
) -> None:
    @conformance(component, examples=20)
    def test() -> None: ...

    outcomes = {}
    [mark] = test.pytestmark
    for case in reversed(mark.args[1]):  # in whatever order, or process, the tests run
        try:
            test(case.values[0])
        except ConformanceError as error:
            outcomes[case.id] = error.law
        except pytest.skip.Exception as skipped:
            outcomes[case.id] = str(skipped)
    names = [each.name for each in laws_of(component)]
    assert outcomes.pop(law) == law
    assert list(reversed(outcomes)) == names[names.index(law) + 1 :]
    for reason in outcomes.values():
        assert reason == f"not tried: {component!r} breaks the law {law!r}. Mend that first."


@pytest.mark.parametrize(
    ("read", "declared", "remedy"),
    [
        (lambda view: view.attention, {}, "needs = Needs(attention=True)"),
        (lambda view: view.sentence_ids.float(), {}, "needs = Needs(sentences=True)"),
        (lambda view: view.unrotated_keys.sum(dim=-1), {}, "needs = Needs(rotary=True)"),
        (
            lambda view: view.keys.sum(-1) * view.queries.sum(),
            {},
            "needs = Needs(queries=N), where N is how many queries score reads",
        ),
        (
            lambda view: view.keys.sum(-1) + view.queries.sum(dim=(-1, -2, -3))[..., None],
            {"queries": 1, "sentences": True},
            "needs = Needs(queries=N, sentences=True), where N is how many queries score reads",
        ),
        (
            Undeclared().score,
            {},
            "needs = Needs(queries=N, attention=True, sentences=True), where N is how many "
            "queries score reads",
        ),
        (
            lambda view: view.positions * 0.0 if view.attention is None else view.attention,
            {"sentences": True},
            "needs = Needs(attention=True, sentences=True)",
        ),
    ],
)
def test_an_undeclared_need_is_told_with_its_remedy(
    read: Any, declared: dict[str, Any], remedy: str
) -> None:
    class Reads:
        needs = Needs(**declared)

        def score(self, view: Any) -> Any:
            return read(view)

    with pytest.raises(ConformanceError) as caught:
        check_scorer(Reads(), examples=30)
    assert caught.value.law == "needs"
    assert f"Declare what score reads: {remedy}." in str(caught.value)


class ByNumber:
    """Reads the number that a sequence has in the view, which depends on its neighbours."""

    def score(self, view: Any) -> Any:
        return view.positions * (1.0 - view.sequences[:, None, None])

    def keep(self, scores: Any, view: Any, budget: int) -> Any:
        return TopK().keep(self.score(view), view, budget)


@pytest.mark.parametrize("check", [check_scorer, check_evictor])
def test_a_part_that_reads_the_number_of_a_sequence_breaks_the_law_of_rows(check: Any) -> None:
    with pytest.raises(ConformanceError) as caught:
        check(ByNumber(), examples=30)
    assert caught.value.law == "rows"


class Drawing:
    """Noise that no view tells of."""

    def score(self, view: Any) -> Any:
        return torch.rand(view.positions.shape)

    def keep(self, scores: Any, view: Any, budget: int) -> Any:
        return TopK().keep(self.score(view), view, budget)


@pytest.mark.parametrize("check", [check_scorer, check_evictor])
def test_a_part_that_answers_anew_at_every_call_is_not_told_to_declare_needs(check: Any) -> None:
    with pytest.raises(ConformanceError) as caught:
        check(Drawing(), examples=5)
    assert caught.value.law == "deterministic"


@pytest.mark.parametrize("policy", [presets.gkv(64), presets.adakv(64)], ids=["gkv", "adakv"])
def test_parts_that_remember_or_share_budgets_are_shown_what_they_declare(policy: Any) -> None:
    part = OnToy(scaled_down(policy), None)
    assert hold(law_of(policy, "needs"), part, examples=2) is None


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
    before, law = len(ran), mark.args[1][0].values[0]
    test_a_function(**{mark.args[0]: law})
    assert len(ran) == before + 1


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
