"""Scorers that are not shown what they need say so."""

from typing import Any

import pytest
from hypothesis import given, settings

from skipkv._types import CacheView
from skipkv.scorers import (
    AccumulatedAttention,
    AttentionRate,
    LastQueryAttention,
    SentenceRedundancy,
    WindowAttention,
)
from skipkv.testing.strategies import cache_views


@pytest.mark.parametrize(
    ("scorer", "message"),
    [
        (WindowAttention(window=2), r"WindowAttention reads the last 2 queries.*queries holds 0"),
        (LastQueryAttention(), r"LastQueryAttention reads the last 1 queries"),
        (AccumulatedAttention(), r"CacheView.attention.*Needs\(attention=True\)"),
        (AttentionRate(), r"CacheView.attention.*Needs\(attention=True\)"),
        (SentenceRedundancy(), r"Needs\(sentences=True\)"),
    ],
    ids=repr,
)
@settings(max_examples=1, deadline=None)
@given(view=cache_views())
def test_a_view_without_what_a_scorer_needs_is_a_clear_error(
    scorer: Any, message: str, view: CacheView
) -> None:
    with pytest.raises(ValueError, match=message):
        scorer.score(view)


@settings(max_examples=1, deadline=None)
@given(view=cache_views(queries=2))
def test_too_few_queries_are_a_clear_error(view: CacheView) -> None:
    with pytest.raises(ValueError, match=r"last 3 queries, but CacheView.queries holds 2"):
        WindowAttention(window=3).score(view)
