"""A policy as a serving engine asks it: a worker with pages, of plain tensors, does the asking."""

from typing import Any

import pytest
import torch
from torch import Tensor

from skipkv import Budget, CacheView, Policy, presets, select
from skipkv.errors import ConfigError, InputError
from skipkv.evictors import Shared, SinkAndRecent
from skipkv.integrations.paged import TokenDropAlgorithm, dropped_spans
from skipkv.scorers import KeyNorm, Recency, WindowAttention
from skipkv.steerers import AdditiveSteerer, SteeringVector

VECTOR = SteeringVector(vector=torch.ones(4), layer=1)
LAYERS, HEADS, GROUPS, SIZE, PAGE = 3, 2, 2, 8, 4


class Worker:
    """Pages of one request, and the questions in the order and form in which LMCache's worker asks.

    An answer must be what that worker takes: one dimension, integers, increasing, within bounds.
    """

    def __init__(self, algorithm: Any, prompt: int, *, by_layer: bool = True) -> None:
        self.algorithm, self.by_layer = algorithm, by_layer
        self.generator = torch.Generator().manual_seed(0)
        self.pages = torch.randperm(64, generator=self.generator)
        self.cache = torch.zeros(LAYERS, 64, PAGE, HEADS, SIZE)
        self.tokens = torch.zeros(LAYERS, 0, HEADS, SIZE)  # all keys there ever were
        self.queries: list[Tensor] = []
        self.held: list[int] = []  # the position of the token in each physical place
        self.decoded, self.events = 0, list[list[int]]()
        self.append(prompt)

    def place(self, where: Tensor) -> tuple[Tensor, Tensor]:
        return self.pages[where // PAGE], where % PAGE

    def append(self, count: int) -> None:
        new = torch.randn(LAYERS, count, HEADS, SIZE, generator=self.generator)
        pages, offsets = self.place(torch.arange(len(self.held), len(self.held) + count))
        self.cache[:, pages, offsets] = new
        self.held += range(self.tokens.shape[1], self.tokens.shape[1] + count)
        self.tokens = torch.cat([self.tokens, new], dim=1)

    def step(self) -> None:
        self.append(1)
        self.decoded += 1
        query = torch.randn(LAYERS, 1, HEADS * GROUPS, SIZE, generator=self.generator)
        self.queries.append(query)
        facts = {
            "num_decoded_tokens": self.decoded, "num_new_tokens": 1, "is_genuine_decode": True,
        }  # fmt: skip
        if self.algorithm.should_observe_query(**facts):
            if self.by_layer:
                for layer in range(LAYERS):
                    self.algorithm.observe_query(f"layer.{layer}", query[layer])
            else:
                self.algorithm.observe_query({f"layer.{n}": query[n] for n in range(LAYERS)})
        if self.algorithm.should_compact(resident_len=len(self.held), **facts):
            self.compact()

    def compact(self) -> None:
        pages, offsets = self.place(torch.arange(len(self.held)))
        keys = {
            f"layer.{n}": self.cache[n][pages, offsets].permute(1, 0, 2)[None].contiguous()
            for n in range(LAYERS)
        }
        kept = self.algorithm.select_kept_positions(keys)
        assert kept.dim() == 1
        assert kept.dtype in (torch.int32, torch.int64)
        assert 0 < len(kept) <= len(self.held)
        assert bool((kept[1:] > kept[:-1]).all())
        assert 0 <= int(kept[0]) <= int(kept[-1]) < len(self.held)
        source, target = self.place(kept), self.place(torch.arange(len(kept)))
        self.cache[:, target[0], target[1]] = self.cache[:, source[0], source[1]]
        self.held = [self.held[place] for place in kept.tolist()]
        self.events.append(self.held)


class EveryThird:
    """Keeps tokens by their position in the request, whatever place they have in the pages."""

    def score(self, view: CacheView) -> Tensor:
        return (view.positions % 3 == 0).float()


def expected(policy: Policy, worker: Worker, held: list[int]) -> list[int]:
    """What `select` keeps of the same tokens at their true positions."""
    window = policy.needs.queries
    queries = torch.cat(worker.queries[-window:], dim=1) if window else None  # [layers W Q D]
    kept = select(
        worker.tokens[:, held].transpose(1, 2),
        torch.zeros(LAYERS, HEADS, len(held), SIZE),
        None if queries is None else queries.transpose(1, 2).unflatten(1, (HEADS, GROUPS)),
        policy=policy.with_(evictor=Shared(layers=True)),
        positions=torch.tensor(held).expand(LAYERS, HEADS, -1),
        layers=torch.arange(LAYERS),
    )
    assert bool((kept == kept[:1, :1]).all())
    return kept[0, 0].tolist()


@pytest.mark.parametrize("by_layer", [True, False])
@pytest.mark.parametrize(
    "policy",
    [
        presets.rkv(20, interval=8),
        presets.snapkv(20, interval=8),
        presets.streaming_llm(20, sinks=3, interval=8),
        Policy(budget=Budget(tokens=20, interval=5, window=2, sinks=1), scorer=KeyNorm()),
        Policy(budget=Budget(tokens=20, interval=5, window=2, sinks=1), scorer=EveryThird()),
        Policy(budget=Budget(tokens=20, interval=5, window=0), scorer=EveryThird()),
    ],
    ids=["rkv", "snapkv", "streaming_llm", "key norm", "positions", "no window"],
)
def test_event_by_event_the_worker_holds_what_select_keeps(policy, by_layer):
    worker = Worker(TokenDropAlgorithm(policy), prompt=30, by_layer=by_layer)
    interval = policy.budget.interval
    held = worker.held
    for _ in range(4 * interval):
        held = [*worker.held, worker.tokens.shape[1]]
        before = len(worker.events)
        worker.step()
        if len(worker.events) > before:
            assert worker.decoded % interval == 0
            assert worker.held == expected(policy, worker, held)
            assert len(worker.held) == policy.budget.tokens
    assert len(worker.events) == 4
    assert worker.held[: policy.budget.sinks] == list(range(policy.budget.sinks))


@pytest.mark.parametrize("over", ["mean", "max", "vote"])
def test_the_evictors_own_sinks_stay_whatever_the_scores(over):
    policy = Policy(
        budget=Budget(tokens=8, window=1, interval=4),
        scorer=KeyNorm(),
        evictor=SinkAndRecent(sinks=3),
    )
    keys = {f"layer.{n}": torch.rand(1, HEADS, 14, SIZE) for n in range(LAYERS)}
    kept = TokenDropAlgorithm(policy, over=over).select_kept_positions(keys)
    assert kept.tolist() == [0, 1, 2, 9, 10, 11, 12, 13]


def test_nothing_is_dropped_within_the_budget_nor_while_a_prompt_is_read():
    algorithm = TokenDropAlgorithm(presets.rkv(20, interval=8))
    facts = {"num_decoded_tokens": 8, "num_new_tokens": 1}
    for _ in range(8):
        algorithm.observe_query("layer.0", torch.randn(1, 4, SIZE))
    assert algorithm.should_compact(resident_len=21, is_genuine_decode=True, **facts)
    assert not algorithm.should_compact(resident_len=20, is_genuine_decode=True, **facts)
    assert not algorithm.should_compact(resident_len=21, is_genuine_decode=False, **facts)
    assert not algorithm.should_observe_query(is_genuine_decode=False, **facts)
    fresh = TokenDropAlgorithm(presets.rkv(20, interval=8))
    assert not fresh.should_compact(resident_len=21, is_genuine_decode=True, **facts)


@pytest.mark.parametrize(
    ("policy", "message"),
    [
        (presets.full(), "needs a budget in tokens"),
        (presets.rkv(0.5), "needs a budget in tokens"),
        (presets.rkv(64, prompt=True), "where the prompt ends"),
        (Policy(budget=Budget(tokens=64, layers=(1, 2, 3))), "the same in all layers"),
        (presets.rkv(64).with_(steerer=AdditiveSteerer(VECTOR)), "steers with AdditiveSteerer"),
        (presets.rkv, r"Write presets.rkv\(budget=1024\)"),
        (presets.h2o(64), "needs attention"),
        (presets.rkv(64, unrotated=True), "needs rotary"),
        (presets.gkv(64), "needs records"),
        (presets.skipkv(64), r"evictor is SentencePrimary.*evictor=TopK\(\)"),
        (presets.caote(64), "reads values"),
        (presets.rkv(64, interval=4), r"Budget\(interval=\) must be at least as large"),
    ],
)
def test_a_policy_that_an_engine_cannot_serve_is_refused(policy, message, as_users_call):
    with pytest.raises(ConfigError, match=message):
        TokenDropAlgorithm(policy)


def test_what_does_not_fit_together_is_said(as_users_call):
    algorithm = TokenDropAlgorithm(Policy(budget=Budget(tokens=12), scorer=Recency()))
    keys = torch.randn(1, 2, 20, SIZE)
    with pytest.raises(InputError, match="of one shape from every layer"):
        algorithm.select_kept_positions({"a": keys, "b": keys[:, :, :9]})
    for other in (keys[0], keys.repeat(2, 1, 1, 1)):  # two requests are not two layers
        with pytest.raises(InputError, match="of one shape from every layer"):
            algorithm.select_kept_positions({"a": other})
    algorithm.select_kept_positions({"a": keys})
    with pytest.raises(InputError, match="make another TokenDropAlgorithm"):
        algorithm.select_kept_positions({"a": keys[:, :, :9]})
    watching = TokenDropAlgorithm(
        Policy(budget=Budget(tokens=12), scorer=WindowAttention(window=8))
    )
    with pytest.raises(InputError, match="needs the newest 8 queries of a"):
        watching.select_kept_positions({"a": keys})
    with pytest.raises(InputError, match="observe_query needs queries"):
        watching.observe_query("a", keys)
    watching.observe_query("a", torch.randn(8, 3, SIZE))
    with pytest.raises(InputError, match="'a': 3} query heads, and the keys have 2 heads"):
        watching.select_kept_positions({"a": keys})


def test_dropped_spans_and_kept_places_make_the_whole():
    kept = torch.tensor([2, 3, 9])
    spans = dropped_spans(kept, 10)
    assert spans == [(0, 2), (4, 9)]
    assert sorted([*kept.tolist(), *(n for a, b in spans for n in range(a, b))]) == [*range(10)]
    assert dropped_spans(torch.arange(4), 4) == []
