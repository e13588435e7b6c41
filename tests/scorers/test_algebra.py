from typing import Any

import attrs
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from skipkv import scorers
from skipkv._types import CacheView, Memory, Needs
from skipkv.errors import ConfigError, PartError
from skipkv.scorers import (
    AccumulatedAttention,
    Combined,
    KeyNorm,
    KeyRedundancy,
    Recency,
    ScorerAlgebra,
    SentenceRedundancy,
    Weighted,
    WindowAttention,
)
from skipkv.testing.strategies import cache_views


@attrs.frozen
class Plain:
    """A user's scorer, without the mixin."""

    def score(self, view: CacheView) -> torch.Tensor:
        return view.positions.float() + 1


PLAIN = Plain()
SCOPE = {name: getattr(scorers, name) for name in scorers.__all__} | {"Plain": Plain}
LEAVES = st.sampled_from(
    [Recency(), KeyNorm(), KeyRedundancy(threshold=0.25), WindowAttention(window=2), PLAIN]
)
WEIGHTS = st.one_of(
    st.sampled_from([1, -1, 0, 2, 0.1, -0.5, 1.0]),
    st.floats(-1e9, 1e9),
)


def combine(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    """All that operators and constructors make of scorers."""
    ours = inner.filter(lambda scorer: scorer != PLAIN)
    weighted = st.builds(
        lambda scorer, weight: Weighted(scorer=scorer, weight=weight), inner, WEIGHTS
    )
    return st.one_of(
        st.builds(lambda a, b: a + b, ours, inner),
        st.builds(lambda a, b: a + b, inner, ours),
        st.builds(lambda a, b: a - b, ours, inner),
        st.builds(lambda a, b: a - b, inner, ours),
        st.builds(lambda a: -a, ours),
        ours.map(lambda a: a.normalized()),
        inner.map(lambda a: scorers.Shared(scorer=a)),
        inner.map(lambda a: scorers.Normalized(scorer=a)),
        weighted,
        st.lists(weighted, min_size=1, max_size=3).map(lambda terms: Combined(terms=tuple(terms))),
    )


COMPOSITIONS = st.recursive(LEAVES, combine, max_leaves=6)


# beartype, which checks this in tests, picks items of tuples with the module `random`
@pytest.mark.filterwarnings("ignore:Do not use the `random` module")
@settings(max_examples=300, deadline=None)
@given(scorer=COMPOSITIONS)
def test_a_repr_can_be_pasted_back(scorer: Any) -> None:
    assert eval(repr(scorer), dict(SCOPE)) == scorer, repr(scorer)


@pytest.mark.parametrize(
    ("scorer", "text"),
    [
        (0.1 * Recency() - 0.9 * KeyNorm(), "0.1 * Recency() - 0.9 * KeyNorm()"),
        (-Recency() + KeyNorm(), "-Recency() + KeyNorm()"),
        (-(Recency() - 2 * KeyNorm()), "-Recency() + 2 * KeyNorm()"),
        (1 * Recency(), "1 * Recency()"),
        (1 / 3 * Recency(), "0.3333333333333333 * Recency()"),
        ((Recency() - KeyNorm()).normalized(), "Normalized(scorer=Recency() - KeyNorm())"),
        (Recency() - PLAIN, "Recency() - Plain()"),
        (PLAIN - Recency(), "Weighted(scorer=Plain(), weight=1) - Recency()"),
        (
            Weighted(scorer=Recency() + KeyNorm(), weight=2),
            "Weighted(scorer=Recency() + KeyNorm(), weight=2)",
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_repr_reads_like_what_was_written(scorer: Any, text: str) -> None:
    assert repr(scorer) == text


@settings(max_examples=60, deadline=None)
@given(view=cache_views(), a=st.floats(-3, 3), b=st.floats(-3, 3))
def test_scores_are_combined_as_the_operators_say(view: CacheView, a: float, b: float) -> None:
    x, y = Recency(), KeyNorm()
    left, right, plain = (scorer.score(view) for scorer in (x, y, PLAIN))
    for scorer, expected in [
        (a * x + b * y, a * left + b * right),
        (a * x - b * y, a * left - b * right),
        (a * (x - b * y), a * left - a * b * right),
        (x - (y - x), 2 * left - right),
        (-x, -left),
        (-(x + y), -left - right),
        (x * a, a * left),
        (x + PLAIN, left + plain),
        (PLAIN + x, left + plain),
        (x - PLAIN, left - plain),
        (PLAIN - x, plain - left),
        (PLAIN - (x - y), plain - left + right),
        ((x - y) - PLAIN, left - right - plain),
    ]:
        torch.testing.assert_close(scorer.score(view), expected, msg=repr(scorer))


def test_a_composition_needs_the_union_of_what_its_terms_need() -> None:
    scorer = 0.5 * WindowAttention(window=4) - SentenceRedundancy() + PLAIN
    assert scorer.needs == Needs(queries=4, sentences=True)
    assert (-AccumulatedAttention()).needs == Needs(attention=True)


@pytest.mark.parametrize("other", [3, 0.5, "Recency()", None, Recency, [Recency()]], ids=repr)
@pytest.mark.parametrize("scorer", [Recency(), Recency() + KeyNorm(), 2 * Recency()], ids=repr)
def test_what_is_no_scorer_can_be_neither_added_nor_subtracted(scorer: Any, other: Any) -> None:
    for operation in (
        lambda: scorer + other,
        lambda: other + scorer,
        lambda: scorer - other,
        lambda: other - scorer,
    ):
        with pytest.raises(TypeError, match=r"unsupported operand|can only concatenate"):
            operation()


@pytest.mark.parametrize("other", [Recency(), PLAIN, "2", None, Recency], ids=repr)
def test_only_numbers_weigh(other: Any) -> None:
    with pytest.raises(TypeError):
        Recency() * other
    with pytest.raises(TypeError):
        other * (Recency() + KeyNorm())


@pytest.mark.parametrize("weight", [float("nan"), float("inf"), float("-inf")])
def test_a_weight_that_is_not_finite_is_refused(weight: float) -> None:
    with pytest.raises(ConfigError, match=r"Weighted\(weight=.*must be finite"):
        weight * Recency()


def test_an_empty_sum_is_refused() -> None:
    with pytest.raises(ConfigError, match="at least one term"):
        Combined(terms=())


@attrs.frozen(kw_only=True)
class Remembering(ScorerAlgebra):
    """Remembers its own number, in a place that all of its kind share."""

    number: float
    needs = Needs(records=(Memory("shared"),))

    def score(self, view: CacheView) -> torch.Tensor:
        return view.record(Memory("shared"))

    def remember(self, view: CacheView) -> dict[Memory, torch.Tensor]:
        return {Memory("shared"): torch.full(view.positions.shape, self.number)}


@given(view=cache_views().filter(lambda view: bool(view.occupied.any())))
@settings(max_examples=10, deadline=None)
def test_terms_of_a_sum_do_not_remember_two_things_in_one_place(view: CacheView) -> None:
    one, other = Remembering(number=1.0), Remembering(number=2.0)
    assert (one - one.normalized()).remember(view).keys() == {Memory("shared")}
    with pytest.raises(PartError, match=r"both write Memory\(name='shared'.*different names"):
        (one + 0.5 * other).remember(view)
