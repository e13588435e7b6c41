"""`select` keeps what the runtime's own events keep, and refuses what it cannot read."""

from typing import Any

import pytest
import torch
from filled_stores import SHAPE, Original, empty, held, ragged
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from skipkv import Budget, CacheView, Peak, Policy, Rotation, SentenceTable, presets, select
from skipkv.errors import ConfigError, InputError, PartError
from skipkv.runtime.parts.event import compress
from skipkv.scorers import KeyNorm, WindowAttention
from skipkv.testing import sentence_tables

ORIGINALS = [Original(seed) for seed in range(2)]
ROTATION = Rotation(frequencies=torch.tensor([1.0]))
POLICIES = {
    **{
        name: presets.get(name)(14, interval=4)
        for name in presets.BUDGETED
        if name != "gkv"  # which remembers
    },
    "rkv:unrotated": presets.rkv(12, interval=4, unrotated=True),
    "prompt kept": presets.rkv(14, interval=4, window=4, prompt=True),
    "a ratio": presets.snapkv(0.5, interval=4, window=4),
}


@pytest.mark.parametrize("name", POLICIES)
@settings(max_examples=12, deadline=None)
@given(
    lengths=st.lists(st.integers(8, 20), min_size=2, max_size=2),
    kind=st.sampled_from(["uniform", "even", "ragged"]),
    prompt=st.integers(1, 5),
    data=st.data(),
)
def test_it_keeps_what_an_event_keeps_of_the_same_view(
    name: str, lengths: list[int], kind: str, prompt: int, data: Any
) -> None:
    policy = POLICIES[name]
    apart = policy.budget is not None and policy.budget.layers is not None
    capacity = {(0,): 20, (1,): 20} if apart else 20
    store = empty(sequences=2, capacity=capacity, needs=policy.needs)
    ragged(store, ORIGINALS, lengths, 3, kind)
    tables: list[SentenceTable] | None = None
    if policy.needs.sentences:
        tables = [data.draw(sentence_tables(seen=seen)) for seen in lengths]
    answers: list[
        tuple[int, int, list[list[int]]]
    ] = []  # of each view, before its entries are moved

    def ask(lanes: Any, view: CacheView, scores: Tensor) -> None:
        kept = select(
            view.keys,
            view.values,
            view.queries,
            policy=policy,
            positions=view.positions,
            seen=view.seen,
            prompt=prompt,
            layers=view.layers,
            depth=view.depth,
            attention=view.attention,
            rotation=view.rotation,
            sentences=view.sentences,
            sequences=view.sequences,
            records=view.records,
        )
        for row, heads in enumerate(kept.tolist()):
            answers.append((int(view.layers[row]), lanes[row % len(lanes)], heads))

    rotation = ROTATION if policy.needs.rotary else None
    compress(
        store, policy, [0, 1], prompts=[prompt] * 2, tables=tables, rotation=rotation, watch=ask
    )
    assert len(answers) == 2 * SHAPE.layers
    for layer, lane, heads in answers:
        for head, positions in enumerate(heads):
            assert [p for p in positions if p >= 0] == held(store, layer, lane, head)


def tensors(**changes: Any) -> dict[str, Any]:
    keys = torch.randn(2, 3, 10, 4, generator=torch.Generator().manual_seed(0))
    return {
        "keys": keys,
        "values": keys + 1,
        "policy": Policy(budget=Budget(tokens=5, window=2), scorer=KeyNorm()),
    } | changes


def test_by_default_slots_are_positions_and_the_row_is_all_there_is() -> None:
    given_ = tensors()
    kept = select(**given_)
    assert kept.shape == (2, 3, 5)
    norms = given_["keys"].norm(dim=-1)[..., :8]
    best = norms.topk(3, dim=-1, largest=False).indices.sort(dim=-1).values
    assert torch.equal(kept[..., :3], best)
    assert (kept[..., 3:] == torch.tensor([8, 9])).all()


def test_a_head_with_room_keeps_all_and_nothing_is_scored_without_need() -> None:
    class Failing:
        def score(self, view: CacheView) -> Tensor:
            raise RuntimeError("asked")

    policy = Policy(budget=Budget(tokens=10), scorer=Failing())
    assert torch.equal(select(**tensors(policy=policy))[0, 0], torch.arange(10))
    with pytest.raises(PartError, match="asked"):
        select(**tensors(policy=policy.with_(budget=Budget(tokens=9))))


def test_without_a_budget_everything_stays() -> None:
    assert torch.equal(select(**tensors(policy=presets.full()))[1, 2], torch.arange(10))


def test_arguments_are_not_changed_and_the_same_call_gives_the_same_answer() -> None:
    given_ = tensors()
    keys, values = given_["keys"].clone(), given_["values"].clone()
    first, second = select(**given_), select(**given_)
    assert torch.equal(first, second)
    assert torch.equal(given_["keys"], keys)
    assert torch.equal(given_["values"], values)


def test_a_part_that_breaks_its_protocol_is_named() -> None:
    class Greedy:
        def keep(self, scores: Tensor, view: CacheView, budget: int) -> Tensor:
            return view.occupied

    policy = Policy(budget=Budget(tokens=9), evictor=Greedy())
    with pytest.raises(PartError, match=r"Greedy.*kept more than the budget of 9"):
        select(**tensors(policy=policy))


SHARES = Policy(budget=Budget(tokens=9, window=1, layers=(3.0, 1.0)))
WINDOW = Policy(budget=Budget(tokens=9), scorer=WindowAttention(window=8))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"policy": presets.rkv}, "presets.rkv"),
        ({"keys": torch.ones(3, 10, 4)}, r"keys=...\) must be \[R, H, L, D\].*keys\[None\]"),
        ({"values": torch.ones(2, 3, 9, 4)}, r"values=...\) must have the rows"),
        ({"positions": torch.arange(10)}, r"positions=...\) must be \[R, H, L\]"),
        ({"records": {Peak(): torch.ones(10)}}, r"records=\{Peak\(\): ...\}\) must be"),
        ({"sinks": torch.ones(4)}, r"sinks=...\) must be \[R, H, G\]"),
        ({"positions": torch.zeros(2, 3, 10, dtype=torch.long)}, "must increase"),
        ({"queries": torch.ones(2, 3, 8, 4)}, r"queries=...\) must be \[R, H, G, W, D\]"),
        ({"seen": 9}, r"must exceed every position.*\[9, 9\]"),
        ({"seen": [10, 10, 10]}, "one for each of the 2 rows"),
        ({"policy": WINDOW}, r"queries \(the newest 8, 0 came\) is missing"),
        ({"policy": presets.h2o(6)}, "attention is missing"),
        ({"policy": presets.gkv(8)}, "remembers"),
        (
            {"policy": Policy(budget=Budget(tokens=9, window=4, prompt=True)), "prompt": [2, 5]},
            r"select\(prompt=...\) of row 1 has 5 tokens.*leaves no room in a budget of 9",
        ),
        ({"policy": presets.skipkv(9), "queries": torch.ones(2, 3, 1, 8, 4)}, "sentences is mis"),
        (
            {"sentences": [SentenceTable.empty(2, device="cpu")]},
            r"sequences=\[0, 1\]\) must name tables",
        ),
        ({"policy": SHARES, "layers": 1}, r"depth=...\) is missing.*Pass their number"),
        (
            {"policy": SHARES, "layers": [1, 2], "depth": 2},
            r"\[1, 2\]\) must lie from 0 to depth - 1, with depth=2",
        ),
        ({"layers": -1}, r"layers=\[-1, -1\]\) must lie from 0"),
        ({"depth": 0}, r"layers=\[0, 0\]\) must lie from 0"),
    ],
)
def test_what_it_cannot_read_is_refused(
    changes: dict[str, Any], message: str, as_users_call: None
) -> None:
    with pytest.raises((InputError, ConfigError), match=message):
        select(**tensors(**changes))
