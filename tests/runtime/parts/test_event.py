"""One compression event: what stays, who fails, and that views and neighbours change nothing."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import attrs
import pytest
import torch
from filled_stores import SHAPE, Original, all_positions, empty, held, ragged
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from skipkv import Budget, Policy
from skipkv._types import SUM, CacheView, Needs, SentenceTable
from skipkv.errors import PartError
from skipkv.evictors import Pooled, Shared, SinkAndRecent, TopK
from skipkv.runtime.parts.event import Outcome, compress
from skipkv.runtime.store.store import SlotStore
from skipkv.scorers import KeyNorm, KeyRedundancy, Recency, WindowAttention
from skipkv.scorers.algebra import ScorerAlgebra

modest = settings(max_examples=25, deadline=None)
EVERY_HEAD = [(layer, head) for layer in range(SHAPE.layers) for head in range(SHAPE.heads)]
SEQUENCES = 3
EVERYTHING = Needs(queries=2, attention=True, sentences=True)
BUDGET = Budget(tokens=6, interval=4, window=2, sinks=1)
ORIGINALS = [Original(seed) for seed in range(SEQUENCES)]


@attrs.frozen(kw_only=True)
class Case:
    """What lies in the store before the event; every `build` gives another store with the same."""

    lengths: list[int]
    kind: str
    seed: int
    chosen: list[int]  # the sequences of the event

    def build(self, needs: Needs | None = None, capacity: Any = 20) -> SlotStore:
        store = empty(sequences=SEQUENCES, capacity=capacity, needs=needs)
        ragged(store, ORIGINALS, self.lengths, self.seed, self.kind)
        return store


@st.composite
def cases(draw: Any, kinds: Sequence[str] = ("uniform", "even", "ragged")) -> Case:
    return Case(
        lengths=draw(st.lists(st.integers(1, 20), min_size=SEQUENCES, max_size=SEQUENCES)),
        kind=draw(st.sampled_from(kinds)),
        seed=draw(st.integers(0, 99)),
        chosen=draw(st.permutations(range(SEQUENCES)))[: draw(st.integers(1, SEQUENCES))],
    )


def run(
    store: SlotStore,
    policy: Policy,
    chosen: Sequence[int],
    prompts: Sequence[int] = (),
    **looking: Any,
) -> list[Outcome]:
    prompts = prompts or [1] * len(chosen)
    return compress(store, policy, chosen, prompts=prompts, tables=None, **looking)


def contents(store: SlotStore, sequence: int) -> list[list[int]]:
    return [held(store, layer, sequence, head) for layer, head in EVERY_HEAD]


def by_position(positions: Tensor) -> Tensor:
    """A score that orders positions in no simple way, and is never equal for two."""
    return torch.sin(positions * 1.7) + positions * 1e-3


@attrs.frozen(kw_only=True)
class Scored(ScorerAlgebra):
    """Scores by position; `change` may spoil them."""

    change: Callable[[CacheView, Tensor], Any] = attrs.field(
        default=lambda view, scores: scores, repr=False
    )

    def score(self, view: CacheView) -> Any:
        return self.change(view, by_position(view.positions).float())


@attrs.frozen(kw_only=True)
class Evicting:
    """Keeps the best; `change` may spoil the mask."""

    change: Callable[[CacheView, Tensor, int], Any] = attrs.field(repr=False)

    def keep(self, scores: Tensor, view: CacheView, budget: int) -> Any:
        return self.change(view, TopK().keep(scores, view, budget), budget)


@modest
@given(case=cases())
def test_of_every_head_the_best_and_the_protected_stay_as_they_were(case: Case) -> None:
    store = case.build()
    before = [contents(store, s) for s in range(SEQUENCES)]
    policy = Policy(budget=BUDGET, scorer=Scored())
    outcomes = run(store, policy, case.chosen)
    for sequence in range(SEQUENCES):
        seen = case.lengths[sequence]
        for at, (layer, head) in enumerate(EVERY_HEAD):
            positions = before[sequence][at]
            expected = positions
            if sequence in case.chosen:
                expected = best_of(
                    positions,
                    seen=seen,
                    budget=6,
                    score=lambda p: float(by_position(torch.tensor(p))),
                )
            assert held(store, layer, sequence, head) == expected
            at_slots = layer, sequence, head, slice(len(expected))
            original = ORIGINALS[sequence]
            assert torch.equal(store.groups[0].keys[at_slots], original.keys[layer, head, expected])
            assert torch.equal(
                store.groups[0].values[at_slots], original.values[layer, head, expected]
            )
        longest = max(len(p) for p in contents(store, sequence))
        assert store.widths[sequence] == longest
    for sequence, outcome in zip(case.chosen, outcomes, strict=True):
        lost = sum(map(len, before[sequence])) - sum(map(len, contents(store, sequence)))
        assert outcome.evicted == lost
        assert outcome.error is None


def best_of(
    positions: list[int], *, seen: int, budget: int, score: Callable[[int], float]
) -> list[int]:
    """What a head keeps: the first entry, the last two, and the best."""
    safe = [p for p in positions if p < 1 or p >= seen - 2]
    rest = sorted((p for p in positions if p not in safe), key=lambda p: -score(p))
    return sorted(safe + rest[: max(0, budget - len(safe))])


@modest
@given(case=cases(), elements=st.sampled_from([1, 2**24]), check_last=st.booleans())
def test_every_layer_keeps_as_much_as_its_own_budget_says(
    case: Case, elements: int, check_last: bool
) -> None:
    """The second layer has the first group, as where a list of shares says so."""
    budget = attrs.evolve(BUDGET, layers=(1.0, 3.0))
    own = [b.tokens for b in budget.of_layers(2)]
    assert own == [5, 7]
    store = case.build(capacity={(1,): 21, (0,): 20})
    before = [contents(store, s) for s in range(SEQUENCES)]
    outcomes = run(
        store,
        Policy(budget=budget, scorer=Scored()),
        case.chosen,
        elements=elements,
        check_last=check_last,
    )
    for sequence, outcome in zip(case.chosen, outcomes, strict=True):
        for at, (layer, _) in enumerate(EVERY_HEAD):
            assert contents(store, sequence)[at] == best_of(
                before[sequence][at],
                seen=case.lengths[sequence],
                budget=own[layer],
                score=lambda p: float(by_position(torch.tensor(p))),
            )
        lost = sum(map(len, before[sequence])) - sum(map(len, contents(store, sequence)))
        assert outcome.evicted == lost


@modest
@given(case=cases())
def test_heads_that_share_their_budgets_keep_no_more_than_these_together(case: Case) -> None:
    store = case.build()
    before = [contents(store, s) for s in range(SEQUENCES)]
    evictor = Pooled(floor=0.5, cap=1.5)
    [*outcomes] = run(store, Policy(budget=BUDGET, scorer=Scored(), evictor=evictor), case.chosen)
    assert not any(outcome.error for outcome in outcomes)
    for sequence in case.chosen:
        kept = contents(store, sequence)
        for layer in range(SHAPE.layers):
            rows = [at for at, (own, _) in enumerate(EVERY_HEAD) if own == layer]
            lengths = [len(kept[at]) for at in rows]
            held_before = [len(before[sequence][at]) for at in rows]
            assert sum(lengths) <= 6 * SHAPE.heads
            assert max(lengths) <= 9
            if sum(held_before) <= 6 * SHAPE.heads and max(held_before) <= 9:
                assert lengths == held_before


def test_a_layer_that_fails_ends_its_sequences_and_no_others() -> None:
    """The first layer's scores are spoiled for one sequence; the others go on in both layers."""
    case = Case(lengths=[20, 20, 20], kind="uniform", seed=0, chosen=[0, 1, 2])

    def spoiled(view: CacheView, scores: Tensor) -> Tensor:
        scores[(view.sequences == 1) & (view.layers == 0), :, 0] = torch.nan
        return scores

    policy = Policy(budget=attrs.evolve(BUDGET, layers=(1.0, 3.0)), scorer=Scored(change=spoiled))
    store = case.build(capacity={(0,): 20, (1,): 20})
    outcomes = run(store, policy, case.chosen)
    assert [outcome.error is None for outcome in outcomes] == [True, False, True]
    assert "scored an entry NaN" in str(outcomes[1].error)
    for sequence in (0, 2):
        lengths = [len(head) for head in contents(store, sequence)]
        assert lengths == [5, 5, 7, 7]


POLICIES = [
    Policy(budget=attrs.evolve(BUDGET, layers=(1.0, 3.0)), scorer=Recency() - KeyNorm()),
    Policy(budget=BUDGET, scorer=KeyNorm(), evictor=Pooled(floor=0.5, cap=1.5)),
    Policy(budget=BUDGET, scorer=KeyNorm(), evictor=Shared(layers=True)),
    Policy(budget=BUDGET, scorer=0.3 * KeyNorm() - KeyRedundancy()),
    Policy(budget=BUDGET, scorer=WindowAttention(window=2, pool=3)),
    Policy(budget=BUDGET, evictor=SinkAndRecent(sinks=1)),
    Policy(budget=Budget(ratio=0.4, window=1), scorer=Recency() - 2 * KeyNorm()),
]


@pytest.mark.parametrize("policy", POLICIES, ids=lambda policy: type(policy.scorer).__name__)
@settings(max_examples=25, deadline=None)
@given(case=cases(), elements=st.sampled_from([1, 200, 2**24]), check_last=st.booleans())
def test_neither_neighbours_nor_the_size_of_views_change_an_outcome(
    policy: Policy, case: Case, elements: int, check_last: bool
) -> None:
    capacity = {(0,): 20, (1,): 20} if policy.budget and policy.budget.layers else 20
    together = case.build(policy.needs, capacity)
    outcomes = run(together, policy, case.chosen, elements=elements, check_last=check_last)
    for sequence, outcome in zip(case.chosen, outcomes, strict=True):
        alone = case.build(policy.needs, capacity)
        [expected] = run(alone, policy, [sequence])
        assert outcome.evicted == expected.evicted
        assert contents(together, sequence) == contents(alone, sequence)


@modest
@given(case=cases(), elements=st.sampled_from([1, 200, 2**24]))
def test_every_row_knows_its_layer_of_the_model(case: Case, elements: int) -> None:
    """Whatever the views: rows are told by their keys."""
    shape = attrs.evolve(SHAPE, numbers=(1, 4), depth=6)  # the others have a sliding window
    store = empty(sequences=SEQUENCES, capacity=20, shape=shape)
    ragged(store, ORIGINALS, case.lengths, case.seed, case.kind)
    found: list[tuple[int, int]] = []

    def note(view: CacheView, scores: Tensor) -> Tensor:
        assert view.depth == 6
        for row, (sequence, layer) in enumerate(zip(view.sequences, view.layers, strict=True)):
            lane, at = case.chosen[sequence], shape.numbers.index(int(layer))
            width = view.keys.shape[2]
            assert torch.equal(view.keys[row], store.groups[0].keys[at, lane, :, :width])
            found.append((int(layer), lane))
        return scores

    run(store, Policy(budget=BUDGET, scorer=Scored(change=note)), case.chosen, elements=elements)
    assert sorted(found) == [(layer, lane) for layer in (1, 4) for lane in sorted(case.chosen)]


def spoil(sequence: int, value: float) -> Callable[[CacheView, Tensor], Tensor]:
    """One score of one row of a sequence, in the last layer of the view, is `value`."""

    def change(view: CacheView, scores: Tensor) -> Tensor:
        row = int((view.sequences == sequence).nonzero()[-1])
        scores[row, -1, 0] = value
        return scores

    return change


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@settings(max_examples=25, deadline=None)
@given(
    case=cases(kinds=["uniform", "even"]),
    elements=st.sampled_from([1, 2**24]),
    check_last=st.booleans(),
)
def test_a_score_that_is_not_finite_fails_its_own_sequence_alone(
    value: float, case: Case, elements: int, check_last: bool
) -> None:
    bad = len(case.chosen) - 1
    policy = Policy(budget=BUDGET, scorer=Scored(change=spoil(bad, value)))
    good = Policy(budget=BUDGET, scorer=Scored())
    store, alone = case.build(), case.build()
    *others, broken = run(store, policy, case.chosen, elements=elements, check_last=check_last)
    assert isinstance(broken.error, PartError)
    assert "Scored() scored an entry NaN or infinite" in str(broken.error)
    if not others:
        return
    expected = run(alone, good, case.chosen[:-1])
    for sequence, outcome, other in zip(case.chosen, others, expected, strict=False):
        assert outcome.error is None
        assert outcome.evicted == other.evicted
        assert contents(store, sequence) == contents(alone, sequence)


@pytest.mark.parametrize("check_last", [False, True])
def test_a_sequence_that_broke_in_one_view_stays_broken(check_last: bool) -> None:
    seen = set()

    def in_the_first_layer(view: CacheView, scores: Tensor) -> Tensor:
        [layer] = view.layers.unique().tolist()
        seen.add(layer)
        return spoil(0, math.nan)(view, scores) if layer == 0 else scores

    store = Case(lengths=[9, 9, 9], kind="uniform", seed=0, chosen=[0]).build()
    policy = Policy(budget=BUDGET, scorer=Scored(change=in_the_first_layer))
    outcomes = run(store, policy, range(2), elements=1, check_last=check_last)
    assert seen == {*range(SHAPE.layers)}
    assert [outcome.error is None for outcome in outcomes] == [False, True]


@modest
@given(case=cases())
def test_what_empty_slots_score_does_not_matter(case: Case) -> None:
    def noisy(view: CacheView, scores: Tensor) -> Tensor:
        return scores.masked_fill(~view.occupied, math.nan)

    store, plain = case.build(), case.build()
    spoiled = Policy(budget=BUDGET, scorer=Scored(change=noisy))
    outcomes = run(store, spoiled, case.chosen)
    expected = run(plain, Policy(budget=BUDGET, scorer=Scored()), case.chosen)
    for sequence, outcome, other in zip(case.chosen, outcomes, expected, strict=True):
        assert outcome.error is None
        assert outcome.evicted == other.evicted
        assert contents(store, sequence) == contents(plain, sequence)


def raising(*_: Any) -> Any:
    raise KeyError("topic")


SHAPES = r"must return \[R, H, L\] = \[6, 2, 9\] of torch\.float32"
BAD_SCORES: dict[str, tuple[Any, str]] = {
    "too few heads": (lambda view, s: s[:, :1], SHAPES + r", got \[6, 1, 9\]"),
    "too few slots": (lambda view, s: s[:, :, 1:], SHAPES + r", got \[6, 2, 8\]"),
    "float64": (lambda view, s: s.double(), SHAPES + r", got .* of torch\.float64"),
    "bfloat16": (lambda view, s: s.bfloat16(), SHAPES + r", got .* of torch\.bfloat16"),
    "another device": (
        lambda view, s: s.to("meta"),
        SHAPES + r" on cpu, got .* of torch\.float32 on meta",
    ),
    "an edit of the keys": (
        lambda view, s: s + view.keys.zero_().sum(),
        r"edited view\.keys in place",
    ),
    "no tensor": (lambda view, s: s.tolist(), "must return a tensor .* got list"),
    "nothing": (lambda view, s: None, "must return a tensor .* got NoneType"),
    "an exception": (raising, "raised KeyError: 'topic'"),
}


@pytest.mark.parametrize("fault", BAD_SCORES)
def test_a_scorer_that_breaks_its_protocol_is_named(fault: str) -> None:
    change, message = BAD_SCORES[fault]
    check_scorer(Scored(change=change), r"^Scored\(\)\.score " + message)


# Torch would make a float32 sum of bfloat16 and float32, and spread a single head over all.
@pytest.mark.parametrize("place", ["first", "middle", "last"])
@pytest.mark.parametrize("fault", BAD_SCORES)
def test_in_a_sum_the_guilty_term_is_named_and_not_the_sum(fault: str, place: str) -> None:
    change, message = BAD_SCORES[fault]
    bad, good = Scored(change=change), [2 * KeyNorm(), Recency()]
    good.insert(["first", "middle", "last"].index(place), bad)
    check_scorer(good[0] + good[1] - good[2], r"^Scored\(\)\.score " + message)


def test_in_a_sum_a_term_that_scores_nan_is_named() -> None:
    bad = Scored(change=spoil(1, math.nan))
    store = Case(lengths=[9, 9, 9], kind="uniform", seed=0, chosen=[0]).build()
    outcomes = run(store, Policy(budget=BUDGET, scorer=KeyNorm() - 0.5 * bad), range(3))
    assert [outcome.error is None for outcome in outcomes] == [True, False, True]
    assert str(outcomes[1].error).startswith("Scored() scored an entry NaN")


def test_in_a_multiple_the_scorer_is_named() -> None:
    check_scorer(0.5 * Scored(change=raising), r"^Scored\(\)\.score raised KeyError: 'topic'")


def test_a_sum_that_overflows_though_its_terms_do_not_is_named_whole() -> None:
    def large(view: CacheView, scores: Tensor) -> Tensor:
        return torch.full_like(scores, 3e38)

    store = Case(lengths=[9, 9, 9], kind="uniform", seed=0, chosen=[0]).build()
    total = Scored(change=large) + Scored(change=large)
    [outcome] = run(store, Policy(budget=BUDGET, scorer=total), [0])
    assert str(outcome.error).startswith("Scored() + Scored() scored an entry NaN or infinite")


def test_a_term_that_fails_now_and_then_is_named_too() -> None:
    calls = []

    def once(view: CacheView, scores: Tensor) -> Tensor:
        calls.append(1)
        return raising() if len(calls) == 1 else scores

    check_scorer(KeyNorm() + Scored(change=once), r"^Scored\(\)\.score raised KeyErr")


def check_scorer(scorer: Any, message: str) -> None:
    store = Case(lengths=[9, 9, 9], kind="uniform", seed=0, chosen=[0]).build()
    outcomes = run(store, Policy(budget=BUDGET, scorer=scorer), range(3))
    for outcome in outcomes:
        with pytest.raises(PartError, match=message):
            raise outcome.error  # type: ignore[misc]


def all_occupied(view: CacheView, keep: Tensor, budget: int) -> Tensor:
    return view.occupied


def an_empty_slot(view: CacheView, keep: Tensor, budget: int) -> Tensor:
    best = TopK().keep(by_position(view.positions), view, budget - 1)
    last = best.clone()
    last[..., -1] |= ~view.occupied[..., -1]
    return last


def nothing_protected(view: CacheView, keep: Tensor, budget: int) -> Tensor:
    return keep & ~view.protected


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (all_occupied, "kept more than the budget of 6 entries per head"),
        (an_empty_slot, "kept an empty slot"),
        (nothing_protected, r"dropped an entry of view\.protected"),
    ],
)
def test_an_evictor_that_breaks_a_law_fails_the_sequences_it_broke_it_on(
    change: Any, message: str
) -> None:
    # sequence 1 is shorter than the others: the only one with empty slots, the only one that fits
    case = Case(lengths=[9, 5, 9], kind="uniform", seed=0, chosen=[0])
    store, plain = case.build(), case.build()
    guilty = {"all_occupied": [0, 2], "an_empty_slot": [1]}.get(change.__name__, [0, 1, 2])
    outcomes = run(store, Policy(budget=BUDGET, evictor=Evicting(change=change)), range(3))
    assert [i for i, outcome in enumerate(outcomes) if outcome.error is not None] == guilty
    for number in guilty:
        assert str(outcomes[number].error).startswith("Evicting() " + message.replace("\\", ""))
    if change is all_occupied:
        [expected] = run(plain, Policy(budget=BUDGET, evictor=TopK()), [1])
        assert outcomes[1].evicted == expected.evicted
        assert contents(store, 1) == contents(plain, 1)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda view, keep, budget: keep.float(), r"must return .* of torch\.bool, got .*float32"),
        (
            lambda view, keep, budget: keep[:1],
            r"must return \[R, H, L\] = \[6, 2, 9\].*\[1, 2, 9\]",
        ),
        (lambda view, keep, budget: None, "must return a tensor .* got NoneType"),
        (raising, "raised KeyError: 'topic'"),
    ],
)
def test_an_evictor_that_breaks_its_protocol_is_named(change: Any, message: str) -> None:
    store = Case(lengths=[9, 9, 9], kind="uniform", seed=0, chosen=[0]).build()
    outcomes = run(store, Policy(budget=BUDGET, evictor=Evicting(change=change)), range(3))
    for outcome in outcomes:
        with pytest.raises(PartError, match=r"^Evicting\(\)\.keep " + message):
            raise outcome.error  # type: ignore[misc]


def test_an_evictor_may_keep_nothing_where_nothing_is_protected() -> None:
    store = Case(lengths=[9, 9, 9], kind="uniform", seed=0, chosen=[0]).build()
    nothing = Evicting(change=lambda view, keep, budget: keep & False)
    policy = Policy(budget=Budget(tokens=6, window=0), evictor=nothing)
    [outcome] = run(store, policy, [1])
    assert outcome.error is None
    assert outcome.evicted == 9 * len(EVERY_HEAD)
    assert contents(store, 1) == [[]] * len(EVERY_HEAD)


@attrs.frozen(kw_only=True)
class Watching:
    """Notes the views it is shown."""

    views: list[CacheView] = attrs.field(factory=list, repr=False)
    budgets: list[int] = attrs.field(factory=list, repr=False)
    needs: Needs = EVERYTHING

    def score(self, view: CacheView) -> Tensor:
        self.views.append(view)
        return by_position(view.positions).float()

    def keep(self, scores: Tensor, view: CacheView, budget: int) -> Tensor:
        self.budgets.append(budget)
        return TopK().keep(scores, view, budget)


def table(count: int) -> SentenceTable:
    return SentenceTable(
        ends=torch.arange(1, count + 1),
        embeddings=torch.zeros(count, 2),
        thoughts=torch.zeros(count, dtype=torch.long),
    )


@modest
@given(case=cases(), elements=st.sampled_from([1, 2**24]), protect=st.booleans())
def test_a_view_shows_each_row_what_its_own_sequence_holds(
    case: Case, elements: int, protect: bool
) -> None:
    watching = Watching()
    budget = attrs.evolve(BUDGET, tokens=30, prompt=protect)
    policy = Policy(budget=budget, scorer=watching)
    store = case.build(policy.needs)
    assert SUM in store.groups[0].records
    positions = all_positions(store)
    store.groups[0].records[SUM] += torch.where(positions >= 0, positions + 0.5, 0.0)
    prompts = [1 + s for s in case.chosen]
    tables = [table(s) for s in case.chosen]
    compress(store, policy, case.chosen, prompts=prompts, tables=tables, elements=elements)
    rows = 0
    for view in watching.views:
        assert view.sentences is not None
        assert view.queries is not None
        assert view.attention is not None
        for row in range(view.positions.shape[0]):
            layer, index = divmod(rows, len(case.chosen))
            sequence, seen = case.chosen[index], case.lengths[case.chosen[index]]
            rows += 1
            assert int(view.sequences[row]) == index
            assert len(view.sentences[index]) == sequence
            assert int(view.seen[row]) == seen
            known = min(2, seen)
            newest = ORIGINALS[sequence].queries[layer, :, :, seen - known : seen]
            assert torch.equal(view.queries[row, :, :, 2 - known :], newest)
            for head in range(SHAPE.heads):
                positions = held(store, layer, sequence, head)
                entries = slice(len(positions))
                assert view.positions[row, head, entries].tolist() == positions
                assert (view.positions[row, head, len(positions) :] == -1).all()
                original = ORIGINALS[sequence]
                found = view.keys[row, head, entries], view.values[row, head, entries]
                assert torch.equal(found[0], original.keys[layer, head, positions])
                assert torch.equal(found[1], original.values[layer, head, positions])
                assert view.attention[row, head, entries].tolist() == [p + 0.5 for p in positions]
                first = max(1, 1 + sequence) if protect else 1
                safe = [p < first or p >= seen - 2 for p in positions]
                assert view.protected[row, head, entries].tolist() == safe
                assert not view.protected[row, head, len(positions) :].any()
    assert rows == SHAPE.layers * len(case.chosen)
    assert len(watching.views) == (SHAPE.layers if elements == 1 else 1)


def test_under_a_ratio_sequences_of_one_budget_are_compressed_together() -> None:
    watching = Watching(needs=Needs())
    policy = Policy(budget=Budget(ratio=0.5, window=1), scorer=watching, evictor=watching)
    store = Case(lengths=[16, 9, 15], kind="uniform", seed=0, chosen=[0]).build()
    outcomes = run(store, policy, range(3))
    assert sorted(set(watching.budgets)) == [5, 8]
    assert [sorted(set(view.seen.tolist())) for view in watching.views] == [[9], [15, 16]]
    assert [o.evicted for o in outcomes] == [n * len(EVERY_HEAD) for n in (8, 4, 7)]
    assert store.widths == [8, 5, 8]


@pytest.mark.parametrize("evictor", [TopK(), SinkAndRecent(sinks=1)], ids=repr)
def test_a_ratio_makes_room_for_a_protected_prompt(evictor: Any) -> None:
    budget = Budget(ratio=0.25, window=2, prompt=True)
    store = Case(lengths=[16, 16, 5], kind="uniform", seed=0, chosen=[0]).build()
    outcomes = run(store, Policy(budget=budget, evictor=evictor), range(3), prompts=[9, 2, 9])
    assert [outcome.error for outcome in outcomes] == [None] * 3
    assert contents(store, 0)[0] == [*range(9), 13, 14, 15]  # prompt, window and one more
    assert len(contents(store, 1)[0]) == 5
    assert contents(store, 2)[0] == list(range(5))  # a part of its prompt: all protected
