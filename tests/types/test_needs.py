"""What parts declare that they read."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from skipkv._types import Needs, needs_of

any_needs = st.builds(
    Needs, queries=st.integers(0, 16), attention=st.booleans(), sentences=st.booleans()
)


@given(first=any_needs, second=any_needs)
def test_a_union_asks_for_what_either_asks_for_and_no_more(first: Needs, second: Needs) -> None:
    union = first | second
    assert union.queries in (first.queries, second.queries)
    assert union.queries >= first.queries
    assert union.queries >= second.queries
    assert union.attention == (first.attention or second.attention)
    assert union.sentences == (first.sentences or second.sentences)


@given(first=any_needs, second=any_needs, third=any_needs)
def test_the_order_of_parts_does_not_matter(first: Needs, second: Needs, third: Needs) -> None:
    assert first | second == second | first
    assert (first | second) | third == first | (second | third)
    assert first | Needs() == first | first == first


def test_a_part_that_declares_nothing_needs_nothing() -> None:
    class Silent:
        pass

    class Odd:
        needs = "queries"

    class Asks:
        needs = Needs(queries=4)

    assert needs_of(Silent()) == needs_of(Odd()) == Needs()
    assert needs_of(Asks()) == Needs(queries=4)


@pytest.mark.parametrize(
    "wrong", [{"queries": -1}, {"queries": 1.5}, {"attention": 1}, {"sentences": "yes"}]
)
def test_needs_that_mean_nothing_are_refused(wrong: dict[str, object]) -> None:
    with pytest.raises((ValueError, TypeError), match=next(iter(wrong))):
        Needs(**wrong)  # type: ignore[arg-type]
