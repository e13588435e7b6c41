"""Calibration from hidden states made up for it."""

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from skipkv.errors import ConfigError, InputError
from skipkv.steerers import KindSums, Separation, ThoughtStates, calibrate
from skipkv.steerers.subspace import principal_directions, without

modest = settings(max_examples=50, deadline=None)
WIDTH, LAYERS = 24, (3, 4, 5)
PLANTED = torch.nn.functional.normalize(torch.ones(WIDTH), dim=0)
CONTENT = torch.nn.functional.normalize(torch.arange(WIDTH) % 2 * 2.0 - 1.0, dim=0)


def trace(
    question: int, *, apart: float = 3.0, content: float = 0.0, noisy: float = 0.0
) -> ThoughtStates:
    """Twelve thoughts; layer 4 alone holds their kinds, along `PLANTED`.

    Args:
        question: seeds the noise.
        apart: distance of the two means in standard deviations.
        content: how far questions lie apart along `CONTENT`.
        noisy: share of thoughts that are labelled against their state, and unstable.
    """
    generator = torch.Generator().manual_seed(question)
    # other questions ramble more, so that content and kind go together
    kinds = torch.tensor([0, 1, 0, 2, 0, 0, 1, 0, 1, 2, 0, 0])
    if question % 2:
        kinds = kinds.where(torch.arange(12) % 4 > 0, 1)
    states = torch.randn(12, 3, WIDTH, generator=generator)
    states[:, 1] += apart * (kinds == 0)[:, None] * PLANTED
    states += content * (question % 2) * CONTENT
    wrong = torch.rand(12, generator=generator) < noisy
    labels = torch.where(wrong, (kinds == 0).long(), kinds)
    return ThoughtStates(
        question=question, states=states, kinds=labels, agreement=torch.where(wrong, 0.1, 0.9)
    )


def cosine(a: Any, b: Any) -> float:
    return float(torch.nn.functional.cosine_similarity(a.float(), b.float(), dim=0))


def test_a_planted_direction_is_found_at_its_layer() -> None:
    found = calibrate([trace(q) for q in range(60)], layers=LAYERS)
    assert found.layer == 4
    assert cosine(found.vector, PLANTED) > 0.95
    assert found.validated[1].d_prime == pytest.approx(3.0, abs=0.4)
    assert found.held_out[1].d_prime == pytest.approx(3.0, abs=0.6)
    # what is not there is not found: a vector judged on its own thoughts would find it
    for layer in (0, 2):
        assert abs(found.validated[layer].d_prime) < 0.5
        assert abs(found.held_out[layer].auc - 0.5) < 0.15
    assert sum(found.counts) == 48 * 12
    assert sum(found.held_out_counts) == 12 * 12


def test_a_layer_asked_for_is_taken_whatever_separates_best() -> None:
    assert calibrate([trace(q) for q in range(10)], layers=LAYERS, layer=5).layer == 5
    with pytest.raises(ConfigError, match=r"layer=6.*one of the layers held"):
        calibrate([trace(q) for q in range(10)], layers=LAYERS, layer=6)


def test_unstable_thoughts_are_left_out_when_asked_and_the_vector_gains_by_it() -> None:
    traces = [trace(q, noisy=0.4) for q in range(40)]
    plain, stable = (calibrate(traces, layers=LAYERS, stable=s) for s in (0.0, 0.8))
    assert (plain.unstable, stable.unstable) == (
        0,
        sum(int((t.agreement < 0.8).sum()) for t in traces if t.agreement is not None),
    )
    assert stable.validated[1].d_prime > plain.validated[1].d_prime + 1
    bare = [ThoughtStates(question=t.question, states=t.states, kinds=t.kinds) for t in traces]
    with pytest.raises(ConfigError, match=r"is None\. Regenerate the thoughts"):
        calibrate(bare, layers=LAYERS, stable=0.8)


def test_content_of_questions_is_taken_out_when_asked_and_the_direction_stays() -> None:
    traces = [trace(q, content=6.0) for q in range(60)]
    plain = calibrate(traces, layers=LAYERS, layer=4)
    clean = calibrate(traces, layers=LAYERS, layer=4, question_directions=1)
    assert abs(cosine(plain.vector, CONTENT)) > 0.2
    assert abs(cosine(clean.vector, CONTENT)) < 0.05
    assert cosine(clean.vector, PLANTED) > 0.95
    assert clean.validated[1].d_prime > plain.validated[1].d_prime


@modest
@given(sizes=st.lists(st.integers(0, 5), min_size=1, max_size=6), seed=st.integers(0, 99))
def test_sums_taken_trace_by_trace_give_the_means_of_all_states(sizes: Any, seed: int) -> None:
    random = np.random.default_rng(seed)
    states = [random.normal(100.0, 1.0, (n, 2, 3)) for n in sizes]
    kinds = [random.integers(0, 3, n) for n in sizes]
    pairs = zip(states, kinds, strict=True)
    parts = [KindSums.of(torch.tensor(s), torch.tensor(k)) for s, k in pairs]
    total = sum(parts[1:], start=parts[0])
    together, labels = np.concatenate(states), np.concatenate(kinds)
    first, rest = together[labels == 0], together[labels != 0]
    if not len(first) or not len(rest):
        with pytest.raises(InputError, match=f"the traces hold {len(first)} and {len(rest)}"):
            total.difference()
        return
    expected = first.mean(axis=0) - rest.mean(axis=0)
    assert np.allclose(total.difference().numpy(), expected, rtol=0, atol=1e-11)


@modest
@given(rows=st.lists(st.tuples(st.integers(-4, 4), st.booleans()), min_size=2, max_size=12))
def test_separation_is_what_counting_pairs_gives(rows: Any) -> None:
    first, rest = ([float(x) for x, e in rows if e is wanted] for wanted in (True, False))
    got = Separation.of(
        torch.tensor([float(x) for x, _ in rows]), torch.tensor([e for _, e in rows])
    )
    if not first or not rest:
        assert got.auc != got.auc
        return
    pairs = [(a > b) + 0.5 * (a == b) for a in first for b in rest]
    assert got.auc == pytest.approx(sum(pairs) / len(pairs))
    hits, passes = sum(a > 0 for a in first) / len(first), sum(b <= 0 for b in rest) / len(rest)
    assert got.accuracy == pytest.approx((hits + passes) / 2)
    if len(first) > 1 and len(rest) > 1:
        spread = ((np.var(first, ddof=1) + np.var(rest, ddof=1)) / 2) ** 0.5
        if spread:
            assert got.d_prime == pytest.approx((np.mean(first) - np.mean(rest)) / spread)


def test_directions_are_taken_out_per_layer_and_no_others() -> None:
    means = torch.zeros(5, 2, 4)
    means[:, 0, 0] = torch.arange(5.0)
    means[:, 1, 2] = torch.arange(5.0)
    vectors = without(torch.ones(2, 4), principal_directions(means, 3))
    assert torch.allclose(vectors, torch.tensor([[0.0, 1, 1, 1], [1, 1, 0, 1]]), atol=1e-6)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"stable": 1.5}, r"stable=1.5.*from 0 to 1"),
        ({"held_out": 1.0}, r"held_out=1.0.*below 1"),
        ({"folds": 1}, "folds"),
        ({"question_directions": -1}, "question_directions"),
    ],
)
def test_options_out_of_range_are_refused(options: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        calibrate([trace(q) for q in range(5)], layers=LAYERS, **options)


def test_too_little_is_said_to_be_too_little() -> None:
    with pytest.raises(InputError, match=r"at least 3 questions.*got 2"):
        calibrate([trace(0), trace(1)], layers=LAYERS)
    only = [
        ThoughtStates(question=q, states=torch.ones(2, 3, 4), kinds=torch.tensor([0, 0]))
        for q in range(5)
    ]
    with pytest.raises(InputError, match="the traces hold 8 and 0"):
        calibrate(only, layers=LAYERS)
    with pytest.raises(ConfigError, match="agree on N"):
        ThoughtStates(question=0, states=torch.ones(2, 3, 4), kinds=torch.tensor([0]))
