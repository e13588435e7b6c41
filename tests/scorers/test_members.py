"""The scorers of published methods against their formulas, entry by entry, in float64."""

import itertools
import math
from collections.abc import Callable, Iterator
from typing import Any

import attrs
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from skipkv import CacheView, presets
from skipkv._types import LastAbove, LongestGap
from skipkv.errors import ConfigError, InputError
from skipkv.evictors import Reserved, TopK
from skipkv.scorers import (
    ExpectedAttention,
    KeyNorm,
    LagRelative,
    LastAttended,
    Lasting,
    OutputChange,
    Random,
    RecentAttention,
    Recurrence,
    Sampled,
    ScorerAlgebra,
    SketchNorm,
    ValuePeak,
    WindowAttention,
)
from skipkv.testing.strategies import budgets, cache_views, scores, views_for

modest = settings(max_examples=25, deadline=None)


def heads_of(view: CacheView) -> Iterator[tuple[int, int, list[int]]]:
    """Row, head and its occupied slots."""
    for r, h in itertools.product(*map(range, view.positions.shape[:2])):
        yield r, h, view.occupied[r, h].nonzero()[:, 0].tolist()


def softmax(logits: dict[int, float]) -> dict[int, float]:
    top = max(logits.values(), default=0.0)
    powers = {j: math.exp(x - top) for j, x in logits.items()}
    total = sum(powers.values())
    return {j: power / total for j, power in powers.items()}


def attention(view: CacheView, window: int, r: int, h: int, slots: list[int]) -> dict[Any, float]:
    """(query head, query, slot) -> the attention the query paid, in float64."""
    found: dict[Any, float] = {}
    groups, held, size = view.queries.shape[2:]
    for g, w in itertools.product(range(groups), range(window)):
        place = int(view.seen[r]) - window + w
        query = view.queries[r, h, g, held - window + w].double()
        seen = [j for j in slots if int(view.positions[r, h, j]) <= place]
        logits = {j: float(query @ view.keys[r, h, j].double()) / math.sqrt(size) for j in seen}
        found |= {(g, w, j): share for j, share in softmax(logits).items()}
    return found


@pytest.mark.parametrize("over", ["mean", "max"])
@modest
@given(view=cache_views(queries=4), window=st.integers(1, 4), pool=st.sampled_from([1, 3, 5]))
def test_recent_attention_is_what_the_queries_paid(
    view: CacheView, window: int, pool: int, over: str
) -> None:
    found = RecentAttention(window=window, over=over, pool=pool).score(view)
    groups = view.queries.shape[2]
    for r, h, slots in heads_of(view):
        paid = attention(view, window, r, h, slots)
        mean = dict.fromkeys(slots, 0.0)
        for j, g in itertools.product(slots, range(groups)):
            by_query = [paid.get((g, w, j), 0.0) for w in range(window)]
            mean[j] += (max(by_query) if over == "max" else sum(by_query) / window) / groups
        for j in slots:
            near = [mean.get(i, 0.0) for i in range(j - pool // 2, j + pool // 2 + 1)]
            assert float(found[r, h, j]) == pytest.approx(sum(near) / pool, abs=1e-5)


@modest
@given(view=cache_views(queries=3))
def test_output_change_is_how_far_the_output_moves_without_the_entry(view: CacheView) -> None:
    found = OutputChange(scorer=RecentAttention(window=2)).score(view)
    for r, h, slots in heads_of(view):
        paid = attention(view, 2, r, h, slots)
        worth = dict.fromkeys(slots, 0.0)
        for (_, _, j), share in paid.items():
            worth[j] += share
        total = sum(worth.values())
        values = view.values[r, h].double()
        shares = {j: worth[j] / total if total else 0.0 for j in slots}
        output = sum((shares[j] * values[j] for j in slots), torch.zeros(values.shape[-1]))
        for j in slots:
            rest = 1 - shares[j]
            if rest < 1e-3:  # nothing is left to compare with
                continue
            others = (shares[i] / rest * values[i] for i in slots if i != j)
            without = sum(others, torch.zeros(values.shape[-1]).double())
            moved = float((output - without).norm())
            assert float(found[r, h, j]) == pytest.approx(moved, abs=1e-3)


@modest
@given(view=cache_views(queries=4, rotary=True), horizon=st.integers(1, 5))
def test_expected_attention_is_that_of_gaussian_queries_to_come(
    view: CacheView, horizon: int
) -> None:
    found = ExpectedAttention(window=3, horizon=horizon).score(view)
    groups, held, size = view.queries.shape[2:]
    freqs, scaling = view.rotation.frequencies.double(), view.rotation.scaling
    pairs = len(freqs)

    def turn(angle: Tensor, factor: float) -> Tensor:
        matrix = torch.eye(size, dtype=torch.float64)
        for i in range(pairs):
            c, s = float(angle[i].cos()) * factor, float(angle[i].sin()) * factor
            matrix[i, i], matrix[i, pairs + i] = c, -s
            matrix[pairs + i, i], matrix[pairs + i, pairs + i] = s, c
        return matrix

    for r, h, slots in heads_of(view):
        seen = int(view.seen[r])
        mean_turn = sum(turn(freqs * (seen + t), scaling) for t in range(horizon)) / horizon
        worth = dict.fromkeys(slots, 0.0)
        for g in range(groups):
            queries = torch.stack(
                [
                    turn(-freqs * (seen - 3 + w), 1 / scaling)
                    @ view.queries[r, h, g, held - 3 + w].double()
                    for w in range(3)
                ]
            )
            mean = queries.mean(dim=0)
            covariance = (queries - mean).T @ (queries - mean) / 3
            logits = {}
            for j in slots:
                key = view.keys[r, h, j].double()
                spread = key @ mean_turn @ covariance @ mean_turn.T @ key
                logits[j] = float(key @ mean_turn @ mean / math.sqrt(size) + spread / (2 * size))
            for j, share in softmax(logits).items():
                worth[j] += share / groups
        for j in slots:
            expected = worth[j] * float(view.values[r, h, j].double().norm())
            assert float(found[r, h, j]) == pytest.approx(expected, abs=2e-3, rel=2e-3)


@modest
@given(view=cache_views(), lag=st.integers(1, 4), sinks=st.integers(0, 3))
def test_lag_relative_orders_a_stretch_by_how_it_lies_in_the_next(
    view: CacheView, lag: int, sinks: int
) -> None:
    found = LagRelative(lag=lag, sinks=sinks).score(view)
    for r, h, slots in heads_of(view):
        first = sum(int(view.positions[r, h, j]) < sinks for j in slots)
        scored = set()
        for start in range(first, len(slots) - 2 * lag + 1, lag):
            own, following = slots[start : start + lag], slots[start + lag : start + 2 * lag]
            worth = dict.fromkeys(own, 0.0)
            for part in (view.keys, view.values):
                numbers = part[r, h].double()
                low, high = numbers[following].amin(dim=0), numbers[following].amax(dim=0)
                within = {j: (numbers[j] - low) / (high - low).clamp_min(1e-6) for j in own}
                deviation = {
                    j: float(x.std(correction=min(1, len(x) - 1))) for j, x in within.items()
                }
                for j, share in softmax(deviation).items():
                    worth[j] += share
            scored |= set(own)
            got = {j: float(found[r, h, j]) for j in own}
            assert sorted(got.values()) == pytest.approx([i / lag for i in range(lag)])
            for i, j in itertools.combinations(own, 2):
                if abs(worth[i] - worth[j]) > 1e-4:
                    assert (got[i] < got[j]) == (worth[i] < worth[j])
        for j in set(slots) - scored:
            place = int(view.positions[r, h, j]) / int(view.seen[r])
            assert float(found[r, h, j]) == pytest.approx(1 + place)


@modest
@given(data=st.data(), factor=st.sampled_from([0.0, 0.5, 0.8]))
def test_lasting_is_the_highest_of_now_and_what_is_left_of_before(data: Any, factor: float) -> None:
    scorer = Lasting(scorer=WindowAttention(window=2), factor=factor)
    view = data.draw(views_for(scorer))
    found, now = scorer.score(view), WindowAttention(window=2).score(view)
    assert torch.equal(scorer.remember(view)[scorer.memory], found)
    before = view.record(scorer.memory)
    for r, h, slots in heads_of(view):
        highest = max((float(now[r, h, j]) for j in slots), default=0.0)
        for j in slots:
            share = float(now[r, h, j]) / highest if highest > 0 else 0.0
            expected = max(factor * float(before[r, h, j]), share)
            assert float(found[r, h, j]) == pytest.approx(expected, abs=1e-6)


@modest
@given(view=views_for(LastAttended(threshold=0.1)))
def test_last_attended_is_the_stamp(view: CacheView) -> None:
    stamp = view.record(LastAbove(threshold=0.1))
    assert torch.equal(LastAttended(threshold=0.1).score(view), stamp)


@modest
@given(view=views_for(Recurrence(threshold=0.1)))
def test_recurrence_is_idle_time_over_the_longest_gap(view: CacheView) -> None:
    found = Recurrence(threshold=0.1).score(view)
    last, gap = view.record(LastAbove(threshold=0.1)), view.record(LongestGap(threshold=0.1))
    for r, h, slots in heads_of(view):
        for j in slots:
            idle = max(0.0, int(view.seen[r]) - 1 - float(last[r, h, j]))
            expected = -idle / max(1.0, float(gap[r, h, j]))
            assert float(found[r, h, j]) == pytest.approx(expected, abs=1e-5)


def test_an_entry_goes_once_it_is_idle_for_longer_than_ever_before() -> None:
    view = attrs.evolve(
        whole(5, seen=100),
        records={
            LastAbove(threshold=0.1): torch.tensor([[[-1.0, 39.0, 79.0, 99.0, 79.0]]]),
            LongestGap(threshold=0.1): torch.tensor([[[0.0, 60.0, 15.0, 0.0, 40.0]]]),
        },
    )
    found = Recurrence(threshold=0.1).score(view)[0, 0]
    assert found.tolist() == pytest.approx([-100.0, -1.0, -20 / 15, 0.0, -0.5])
    keep = TopK().keep(found[None, None], view, 3)
    assert keep[0, 0].tolist() == [False, True, False, True, True]


@modest
@given(view=cache_views())
def test_value_peak_is_the_largest_component(view: CacheView) -> None:
    assert torch.equal(ValuePeak().score(view), view.values.max(dim=-1).values)


def whole(count: int = 400, *, seed: int = 0, seen: int | None = None, layer: int = 0) -> CacheView:
    """One row and head that holds `count` entries."""
    random = torch.Generator().manual_seed(seed)
    keys, values = torch.randn(2, 1, 1, count, 16, generator=random).unbind()
    return CacheView(
        keys=keys,
        values=values,
        positions=torch.arange(count).expand(1, 1, -1),
        protected=torch.zeros(1, 1, count, dtype=torch.bool),
        seen=torch.tensor([seen or count]),
        sequences=torch.tensor([0]),
        layers=torch.tensor([layer]),
    )


def test_a_sketch_estimates_the_product_of_squared_norms_and_every_event_draws_anew() -> None:
    view = whole()
    exact = view.keys.norm(dim=-1).square() * view.values.norm(dim=-1).square()
    wide = SketchNorm(columns=2000).score(view) / 2000**2
    torch.testing.assert_close(wide, exact, rtol=0.25, atol=0)
    mean = sum(SketchNorm(seed=seed).score(view) / 20**2 for seed in range(200)) / 200
    # E[|kG|^2 |vG|^2] = |k|^2 |v|^2 + 2 (k.v)^2 / columns
    dots = (view.keys * view.values).sum(dim=-1).square()
    torch.testing.assert_close(mean, exact + 2 * dots / 20, rtol=0.35, atol=0)
    plain = SketchNorm().score(view)
    for other in (whole(seen=500), whole(layer=3)):
        assert not torch.equal(SketchNorm().score(other), plain)


@attrs.frozen
class Ramp(ScorerAlgebra):
    """Position 0 has no odds, position 3 three times those of position 1."""

    def score(self, view: CacheView) -> Tensor:
        return view.positions.clamp_min(0).float()


def test_sampled_draws_in_proportion_and_never_what_has_no_odds() -> None:
    draws, view = 4000, whole(4)
    rows = {
        name: getattr(view, name).expand(draws, *getattr(view, name).shape[1:])
        for name in ("keys", "values", "positions", "protected", "seen", "sequences")
    }
    many = attrs.evolve(view, **rows, layers=torch.arange(draws), depth=draws)
    order = Sampled(scorer=Ramp(), seed=7).score(many)[:, 0].argsort(dim=-1, descending=True)
    firsts = order[:, 0].bincount(minlength=4) / draws
    torch.testing.assert_close(firsts, torch.tensor([0, 1, 2, 3]) / 6, atol=0.03, rtol=0)
    # without replacement: after 3 the others are drawn as 1 to 2
    after = order[order[:, 0] == 3, 1].bincount(minlength=4).float()
    expected = torch.tensor([0, 1, 2, 0]) / 3
    torch.testing.assert_close(after / after.sum(), expected, atol=0.04, rtol=0)


def test_the_rarest_noise_is_finite_too() -> None:
    """With this seed, position 13508 draws the highest uniform number that there is."""
    view = CacheView(
        keys=torch.ones(1, 1, 1, 2),
        values=torch.ones(1, 1, 1, 2),
        positions=torch.full((1, 1, 1), 13508),
        protected=torch.zeros(1, 1, 1, dtype=torch.bool),
        seen=torch.tensor([200_000]),
        sequences=torch.tensor([0]),
    )
    score = Sampled(scorer=ValuePeak(), seed=91).score(view)
    assert 15 < float(score) < 20  # -log(-log(u)) for u next to 1


def test_sampled_draws_anew_for_every_event_layer_and_head() -> None:
    plain = Sampled(scorer=KeyNorm()).score(whole())
    for other in (whole(seen=500), whole(layer=3)):
        assert not torch.equal(Sampled(scorer=KeyNorm()).score(other), plain)


@settings(max_examples=40, deadline=None)
@given(view=views_for(ValuePeak()), share=st.sampled_from([0.0, 0.25, 0.5, 1.0]), data=st.data())
def test_reserved_keeps_its_share_of_the_room_and_then_the_best(
    view: CacheView, share: float, data: Any
) -> None:
    values, budget = data.draw(scores(view)), data.draw(budgets(view))
    keep = Reserved(scorer=ValuePeak(), share=share).keep(values, view, budget)
    peaks = view.values.amax(dim=-1)
    for r, h, slots in heads_of(view):
        chosen = [j for j in slots if view.protected[r, h, j]]
        room = budget - len(chosen)
        for worth, count in ((peaks, int(share * room)), (values, room - int(share * room))):
            left = [j for j in slots if j not in chosen]
            left.sort(key=lambda j, worth=worth, r=r, h=h: (-float(worth[r, h, j]), j))
            chosen += left[:count]
        assert keep[r, h].nonzero()[:, 0].tolist() == sorted(chosen)


def test_with_nothing_reserved_the_best_stay() -> None:
    view = whole(30)
    values = Random().score(view)
    reserved = Reserved(scorer=ValuePeak(), share=0.0).keep(values, view, 12)
    assert torch.equal(reserved, TopK().keep(values, view, 12))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: RecentAttention(window=0), r"RecentAttention\(window=0\) must be at least 1"),
        (lambda: RecentAttention(over="sum"), r"over='sum'\) must be 'mean' or 'max'"),
        (lambda: RecentAttention(pool=4), r"pool=4\) must be odd"),
        (lambda: ExpectedAttention(window=1), r"window=1\)"),
        (lambda: LagRelative(lag=0), r"lag=0\)"),
        (lambda: Lasting(scorer=ValuePeak(), factor=1.5), r"factor=1.5\) must lie in \[0, 1\]"),
        (lambda: LastAttended(threshold=1.0), r"threshold=1.0\) must be in \[0, 1\)"),
        (lambda: Recurrence(threshold=1.0), r"threshold=1.0\) must be in \[0, 1\)"),
        (lambda: SketchNorm(columns=0), r"columns=0\)"),
        (lambda: Reserved(scorer=ValuePeak(), share=1.5), r"share=1.5\) must lie in \[0, 1\]"),
        (lambda: Reserved(scorer=ValuePeak), "must be a scorer"),
        (lambda: presets.morphkv(64, over="sum"), "mean"),
    ],
)
def test_settings_out_of_range_are_refused(make: Callable[[], Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        make()


@settings(max_examples=1, deadline=None)
@given(view=cache_views(queries=3))
def test_without_the_rotation_queries_cannot_be_turned(view: CacheView) -> None:
    with pytest.raises(InputError, match="ExpectedAttention turns queries"):
        ExpectedAttention(window=3).score(view)


def test_windows_and_lags_of_small_budgets_are_a_quarter_of_them() -> None:
    for name, wanted in (("vase", 64), ("vase_dkv", 64), ("expected_attention", 64)):
        make = presets.get(name)
        assert make(1024).budget.window == wanted
        assert make(100).budget.window == 25
        assert make(100).budget.sinks == 4
        assert make(100, window=7, sinks=0).budget.window == 7
    assert presets.lagkv(1024).scorer == LagRelative(lag=128, sinks=4)
    assert presets.lagkv(100).scorer == LagRelative(lag=25, sinks=4)
