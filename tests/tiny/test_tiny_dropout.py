"""KV dropout: what vanishes in training, and what is spared."""

import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from skipkv.tiny.dropout import NEVER, WHOLE_SHARE, expiries
from skipkv.tiny.problem import draw
from skipkv.tiny.traces import Trace, write_trace

SEEDS = st.integers(0, 10**6)
STORES = 4


def dropped(seed: int) -> tuple[Trace, np.ndarray]:
    rng = random.Random(seed)
    trace = write_trace(draw(rng), rng)
    return trace, expiries(trace, STORES, rng)


@given(SEEDS)
@settings(max_examples=60)
def test_a_fact_still_to_be_looked_up_is_visible_where_it_is(seed):
    trace, expiry = dropped(seed)
    for fact, position in trace.needs:
        told = [places for copy, places in trace.copies if copy == fact and places[-1] < position]
        assert any((expiry[:, list(places)] > position).all() for places in told), fact


@given(SEEDS)
@settings(max_examples=60)
def test_nothing_vanishes_before_the_prompt_is_read_or_within_the_window(seed):
    trace, expiry = dropped(seed)
    assert (expiry >= trace.prompt).all()
    assert (expiry > np.arange(len(trace.tokens)) + 8).all()


@given(SEEDS)
@settings(max_examples=60)
def test_the_first_token_stays(seed):
    _, expiry = dropped(seed)
    assert (expiry[:, 0] == NEVER).all()


@given(SEEDS)
@settings(max_examples=60)
def test_stores_differ_only_in_what_lives_on(seed):
    _, expiry = dropped(seed)
    common = expiry.min(axis=0)
    assert ((expiry == common) | (expiry == NEVER)).all()


def test_some_traces_lose_nothing_and_some_more_than_half():
    lost = [(dropped(seed)[1] != NEVER).mean() for seed in range(300)]
    untouched = sum(share == 0 for share in lost) / 300
    assert untouched == pytest.approx(WHOLE_SHARE, abs=0.1)
    assert max(lost) > 0.5
