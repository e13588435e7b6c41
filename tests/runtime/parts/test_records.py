"""Records beside the entries: statistics of attention, and what scorers remember."""

from typing import Any

import attrs
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

import skipkv
from skipkv import (
    Budget,
    CacheView,
    Decayed,
    Engine,
    LastAbove,
    LongestGap,
    Memory,
    Needs,
    Peak,
    Policy,
    Prompt,
    Statistic,
    Sum,
)
from skipkv.errors import ConfigError, InputError, PartError
from skipkv.scorers import Random, Recency
from skipkv.scorers.algebra import ScorerAlgebra
from skipkv.testing import check_scorer, scripted_model, toy_model, toy_tokenizer

TOKENIZER = toy_tokenizer()
STATISTICS = (
    Sum(),
    Decayed(factor=0.8),
    Peak(),
    LastAbove(threshold=0.05),
    LongestGap(threshold=0.05),
)
POSITION = Memory("position", start=-1.0)
SCRIPT = "one plus two is three. wait let me check one plus two again so then one is two"


@attrs.define(eq=False)
class Spy(ScorerAlgebra):
    """Notes what the records of every view are, and scores nothing."""

    records: tuple[Any, ...]
    seen: list[tuple[Tensor, Tensor, list[Tensor]]] = attrs.field(factory=list)

    @property
    def needs(self) -> Needs:
        return Needs(records=self.records)

    def score(self, view: CacheView) -> Tensor:
        values = [view.record(record).clone() for record in self.records]
        self.seen.append((view.seen.clone(), view.positions.clone(), values))
        return torch.zeros(view.positions.shape)


def loop_in_float64(
    attention: Tensor, groups: int, events: list[tuple[int, Tensor]]
) -> dict[int, list[dict[int, list[float]]]]:
    """The statistics of each head at each event: a token at a time, an entry at a time.

    Args:
        attention: of every token to those before, before anything is dropped.
        groups: query heads, all alike.
        events: tokens seen, and the positions that each head held until then, [H, L].
    """
    heads = events[0][1].shape[0]
    held: list[dict[int, list[float]]] = [{} for _ in range(heads)]
    found: dict[int, list[dict[int, list[float]]]] = {}
    token = 0
    for seen, before in events:
        for head in range(heads):
            alive = {p for p in before[head].tolist() if p >= 0}
            held[head] = {p: v for p, v in held[head].items() if p in alive}
        for t in range(token, seen):
            for head in range(heads):
                entries = [p for p in before[head].tolist() if 0 <= p <= t]
                share = attention[t, entries].double()
                for p, weight in zip(entries, (share / share.sum()).tolist(), strict=True):
                    old = held[head].get(p, [0.0, 0.0, 0.0, -1.0, 0.0])
                    used = weight > 0.05
                    held[head][p] = [
                        old[0] + groups * weight,
                        old[1] * 0.8 + groups * weight,
                        max(old[2], weight),
                        float(t) if used else old[3],
                        max(old[4], t - old[3]) if used and old[3] >= 0 else old[4],
                    ]
        token = seen
        found[seen] = [dict(values) for values in held]
    return found


@pytest.mark.parametrize("chunk", [3, 256])
def test_statistics_are_those_of_a_loop_over_tokens_and_entries(chunk: int) -> None:
    ids = TOKENIZER.encode(SCRIPT)
    attention = torch.rand(len(ids), len(ids), generator=torch.Generator().manual_seed(2)) ** 2
    model = scripted_model(SCRIPT, attention=attention, heads=2, groups=2)
    spy = Spy(STATISTICS)
    policy = Policy(
        budget=Budget(tokens=8, interval=4, window=2), scorer=Random(seed=1, fresh=True) + spy
    )
    prompt = TOKENIZER.decode(ids[:17])
    engine = Engine(model, TOKENIZER, policy, batch_size=2, prefill_chunk=chunk)
    done = list(engine.generate([prompt], max_new_tokens=len(ids), trace=True))
    assert len(spy.seen) == done[0].stats.events > 4
    events = [(int(seen[0]), positions[0]) for seen, positions, _ in spy.seen]
    expected = loop_in_float64(attention, 2, events)
    for seen, positions, values in spy.seen:
        for number in range(len(STATISTICS)):
            for head in range(2):
                entries = [p for p in positions[0, head].tolist() if p >= 0]
                want = [expected[int(seen[0])][head][p][number] for p in entries]
                found = values[number][0, head, : len(entries)]
                assert torch.allclose(found, torch.tensor(want), atol=1e-5), STATISTICS[number]


@attrs.define(eq=False)
class Remembering(ScorerAlgebra):
    """Remembers each entry's position, and checks that it comes back with its entry."""

    memory: Memory = attrs.field(default=POSITION)
    checked: int = 0

    @property
    def needs(self) -> Needs:
        return Needs(records=(self.memory,))

    def score(self, view: CacheView) -> Tensor:
        held = view.record(self.memory)
        known = (held >= 0) & view.occupied
        assert torch.equal(held[known], view.positions[known].float())
        assert (held[view.occupied & ~known] == -1).all()
        self.checked += int(known.sum())
        # an event every four tokens has seen what is older, but for a sequence's first event
        later = known.flatten(1).any(dim=1)[:, None, None]
        old = view.occupied & (view.positions < view.seen[:, None, None] - 8)
        assert known[old & later].all()
        return torch.zeros(view.positions.shape)

    def remember(self, view: CacheView) -> dict[Memory, Tensor]:
        return {self.memory: view.positions.float()}


def test_what_is_remembered_moves_with_its_entry_and_its_sequence() -> None:
    scorer = Remembering()
    policy = Policy(
        budget=Budget(tokens=12, interval=4, window=2), scorer=Random(seed=1, fresh=True) + scorer
    )
    prompts = [[5 + (7 * i + row) % 70 for i in range(n)] for row, n in enumerate((14, 3, 30, 16))]
    asked: list[Any] = [*prompts, Prompt(prompts[0], sampling={"temperature": 1.0, "n": 2})]
    engine = Engine(toy_model(layers=3), TOKENIZER, policy, batch_size=2, prefill_chunk=5)
    for options in ({}, {"prefix": prompts[2][:13]}):
        done = list(engine.generate(asked, max_new_tokens=25, **options))
        assert [one.error for one in done] == [None] * 6
    assert scorer.checked > 1000
    model: Any = toy_model(layers=3)
    with skipkv.attach(model, policy):
        batch = TOKENIZER.pad({"input_ids": prompts}, padding_side="left", return_tensors="pt")
        model.generate(**batch, max_new_tokens=25, do_sample=False)


def test_no_gradient_is_remembered_where_the_caller_computes_some() -> None:
    """The cache would hold the graph of every event."""
    factor, found = torch.nn.Parameter(torch.ones(1)), []

    class Learned(Keeping):
        def remember(self, view: CacheView) -> dict[Memory, Tensor]:
            found.append(view.record(self.memory).requires_grad)
            return {self.memory: factor * view.keys.norm(dim=-1)}

    policy = Policy(budget=Budget(tokens=20, window=4, interval=8), scorer=Learned())
    model: Any = toy_model()
    given: dict[str, Any] = {"input_ids": torch.tensor([[5 + 7 * i % 70 for i in range(24)]])}
    with skipkv.attach(model, policy), torch.enable_grad():
        for _ in range(20):
            output = model(**given, use_cache=True, logits_to_keep=1)
            token = output.logits[:, -1].argmax(-1, keepdim=True)
            given = {"input_ids": token, "past_key_values": output.past_key_values}
    assert output.logits.requires_grad
    assert len(found) > 3
    assert not any(found)


class Forgetful(Remembering):
    """Writes what it did not declare, not finite, or no tensor."""

    answer: Any = None

    def remember(self, view: CacheView) -> Any:
        return type(self).answer(view)


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (lambda view: None, "must return a mapping from memories to tensors, got None"),
        (lambda view: {Memory("other"): view.positions.float()}, "'other'.*does not declare"),
        (lambda view: {Remembering().memory: view.positions}, r"must return \[R, H, L\].*int64"),
        (lambda view: {Remembering().memory: view.positions / 0.0}, "NaN or infinite"),
    ],
)
def test_a_scorer_that_remembers_wrongly_is_named(answer: Any, message: str) -> None:
    Forgetful.answer = answer
    policy = Policy(budget=Budget(tokens=12, interval=4, window=2), scorer=2 * Forgetful())
    engine = Engine(toy_model(), TOKENIZER, policy)
    [done] = engine.generate([[9] * 20], max_new_tokens=5)
    assert isinstance(done.error, PartError)
    with pytest.raises(PartError, match=f"(?s)Forgetful.*{message}"):
        raise done.error


def updating(answer: Any) -> Any:
    """A statistic of this function of what it held and of the weights."""

    def update(self: Any, held: Tensor, weights: Tensor, positions: Tensor) -> Any:
        return answer(held, weights)

    members = {"start": 0.0, "update": update, "__repr__": lambda self: "Odd()"}
    return type("Odd", (), members)()


def _edits(held: Tensor, weights: Tensor) -> Tensor:
    weights.zero_()
    return held


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (lambda held, weights: held[0, 0, 99], r"update raised IndexError"),
        (lambda held, weights: None, r"update must return a tensor \[B, H, L\].*got NoneType"),
        # it was spread over the heads without a word
        (lambda held, weights: weights.sum(dim=(1, 2, 3))[:, None], r"must return \[B, H, L\]"),
        (lambda held, weights: held.double(), "float64"),
        (_edits, "edited weights in place"),
        (lambda held, weights: held.add_(1), "edited held in place"),
    ],
)
@pytest.mark.parametrize("length", [28, 5], ids=["in the prompt", "while decoding"])
def test_a_statistic_that_breaks_ends_the_sequences_that_it_was_asked_about(
    answer: Any, message: str, length: int
) -> None:
    statistic = updating(
        lambda held, weights: (
            answer(held, weights) if length == 28 or weights.shape[3] > 5 else held
        )
    )
    budget = Budget(tokens=24, interval=8, window=2)
    policy = Policy(budget=budget, scorer=Recency() + 0.0 * Spy((statistic,)))
    engine = Engine(toy_model(), TOKENIZER, policy, eos_token_ids=[])
    done = list(engine.generate([[9] * length, [7] * 3], max_new_tokens=30))
    for one in done:
        assert isinstance(one.error, PartError)
        with pytest.raises(
            PartError, match=rf"^Odd\(\)\.update .*{message.removeprefix('update ')}"
        ):
            raise one.error
    model: Any = toy_model()
    with (
        skipkv.attach(model, policy),
        pytest.raises(PartError, match=r"^Odd\(\)\.update "),
    ):
        model.generate(torch.tensor([[9] * length]), max_new_tokens=30, do_sample=False)


def test_a_statistic_that_is_not_finite_is_blamed_and_not_the_scorer_that_reads_it() -> None:
    statistic = updating(lambda held, weights: held / 0.0)

    class Reading(ScorerAlgebra):
        needs = Needs(records=(statistic,))

        def score(self, view: CacheView) -> Tensor:
            return view.record(statistic)

    policy = Policy(budget=Budget(tokens=24, interval=8, window=2), scorer=Reading())
    [done] = Engine(toy_model(), TOKENIZER, policy).generate([[9] * 28], max_new_tokens=5)
    assert str(done.error).startswith("Odd().update gave an entry NaN or infinite")


def test_the_error_of_a_statistic_goes_with_a_prefix_and_with_the_samples_of_a_prompt() -> None:
    statistic = updating(lambda held, weights: None)
    budget = Budget(tokens=24, interval=8, window=2)
    policy = Policy(budget=budget, scorer=Recency() + 0.0 * Spy((statistic,)))
    engine = Engine(toy_model(), TOKENIZER, policy, eos_token_ids=[])
    twice = Prompt([7] * 3, sampling={"temperature": 1.0, "n": 2})
    done = list(engine.generate([twice, [8] * 3], prefix=[9] * 6, max_new_tokens=30))
    assert ["update must return" in str(one.error) for one in done] == [True] * 3


@attrs.frozen
class Chained(LongestGap):
    """Reads a statistic that itself reads another."""

    threshold: float = attrs.field(default=0.1, init=False, repr=False)

    @property
    def reads(self) -> Any:
        return LongestGap(threshold=0.2)


def test_a_memory_that_no_scorer_writes_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"Memory\(name='x', start=0.0\).*does not write"):
        Policy(budget=Budget(tokens=12), scorer=Spy((Memory("x"),)))


@pytest.mark.parametrize(
    ("records", "message"),
    [
        ("peak", "must be a tuple of records"),
        ((3,), "must hold records, got"),
        ((Peak,), "must hold records, got"),
        ((LongestGap,), "must hold records, got"),
        ((Chained(),), r"Chained\(\).reads must be a statistic that reads no other"),
        ((Memory("x"), Memory("x", start=1.0)), "name 'x' and different starts"),
    ],
)
def test_needs_with_what_is_no_record_are_refused(records: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Needs(records=records)


def test_the_union_of_needs_has_each_record_once() -> None:
    union = Needs(records=(Peak(), Memory("x"))) | Needs(
        records=(Memory("x"), LastAbove(threshold=0.1))
    )
    assert union.records == (Peak(), Memory("x"), LastAbove(threshold=0.1))
    assert Needs(attention=True, records=(Sum(), Peak())).recorded == (Sum(), Peak())
    assert Needs(records=(Peak(), Sum())).recorded == (Peak(), Sum())
    assert not Needs(records=(Memory("x"),)).weights
    gap = LongestGap(threshold=0.1)
    assert Needs(records=(gap,)).records == (gap, LastAbove(threshold=0.1))
    assert (Needs(records=(gap.reads,)) | Needs(records=(gap,))).records == (gap.reads, gap)
    with pytest.raises(ConfigError, match="different starts"):
        Needs(records=(Memory("x"),)) | Needs(records=(Memory("x", start=2.0),))


def test_a_record_that_was_not_declared_is_an_error_that_says_what_to_declare() -> None:
    class Undeclared(Recency):
        def score(self, view: CacheView) -> Tensor:
            return view.record(Peak())

    engine = Engine(
        toy_model(), TOKENIZER, Policy(budget=Budget(tokens=12, window=2), scorer=Undeclared())
    )
    [done] = engine.generate([[9] * 200], max_new_tokens=5)
    assert "needs = Needs(records=(Peak(),))" in str(done.error)


def test_scorers_with_memory_keep_the_laws_with_their_sums_and_multiples() -> None:
    for scorer in (Keeping(), Keeping().normalized(), 2 * Keeping() - Recency()):
        check_scorer(scorer, examples=20)


class Keeping(ScorerAlgebra):
    """The running maximum of the keys' first component."""

    memory = Memory("keeping")
    needs = Needs(records=(memory,))

    def score(self, view: CacheView) -> Tensor:
        return self.remember(view)[self.memory]

    def remember(self, view: CacheView) -> dict[Memory, Tensor]:
        return {self.memory: view.record(self.memory).maximum(view.keys[..., 0].float())}


@given(factor=st.sampled_from([0.5, 0.9]), tokens=st.integers(1, 6), seed=st.integers(0, 99))
def test_decay_is_that_of_a_loop(factor: float, tokens: int, seed: int) -> None:
    random = torch.Generator().manual_seed(seed)
    weights = torch.rand(1, 1, 2, tokens, 3, generator=random)
    positions = torch.arange(tokens)[None]
    held = torch.rand(1, 1, 3, generator=random)
    expected = held.double()
    for token in range(tokens):
        expected = factor * expected + weights[:, :, :, token].double().sum(dim=2)
    found = Decayed(factor=factor).update(held, weights, positions)
    assert torch.allclose(found.double(), expected, atol=1e-5)


@pytest.mark.parametrize("statistic", STATISTICS, ids=repr)
def test_the_statistics_keep_their_laws(statistic: Statistic) -> None:
    from skipkv.testing import check_statistic

    check_statistic(statistic)


def test_thresholds_and_factors_out_of_range_are_refused() -> None:
    for factor in (0.0, 1.0):
        with pytest.raises(ConfigError, match="between 0 and 1"):
            Decayed(factor=factor)
    for threshold in (-0.1, 1.0):
        with pytest.raises(ConfigError, match=r"in \[0, 1\)"):
            LastAbove(threshold=threshold)
        with pytest.raises(ConfigError, match=r"LongestGap.*in \[0, 1\)"):
            LongestGap(threshold=threshold)
    with pytest.raises(InputError, match="Needs\\(records"):
        Spy((Peak(),)).score(view_without_records())


def view_without_records() -> CacheView:
    zeros = torch.zeros(1, 1, 2, 3)
    return CacheView(
        keys=zeros,
        values=zeros,
        positions=torch.tensor([[[0, 1]]]),
        protected=torch.zeros(1, 1, 2, dtype=torch.bool),
        seen=torch.tensor([2]),
        sequences=torch.tensor([0]),
    )


def test_select_takes_statistics_and_refuses_what_remembers() -> None:
    keys = torch.ones(1, 1, 6, 4)
    policy = Policy(budget=Budget(tokens=3, window=1), scorer=Received())
    received = torch.tensor([[[0.0, 3.0, 1.0, 2.0, 0.0, 0.0]]])
    kept = skipkv.select(keys, keys, policy=policy, records={Peak(): received})
    assert kept.tolist() == [[[1, 3, 5]]]
    with pytest.raises(InputError, match=r"records\[Peak\(\)\] is missing"):
        skipkv.select(keys, keys, policy=policy)
    with pytest.raises(InputError, match=r"remembers Memory.*'keeping'"):
        skipkv.select(keys, keys, policy=policy.with_(scorer=Keeping()))


class Received(ScorerAlgebra):
    """The largest weight that an entry has received."""

    needs = Needs(records=(Peak(),))

    def score(self, view: CacheView) -> Tensor:
        return view.record(Peak())
