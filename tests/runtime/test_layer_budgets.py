"""Layers that divide the budget: exact in each of them, and memory for no more."""

from collections.abc import Sequence
from typing import Any

import attrs
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import Qwen2ForCausalLM

import skipkv
from skipkv import Budget, Engine, Policy, presets
from skipkv.errors import ConfigError, InputError
from skipkv.evictors import Shared
from skipkv.policy import LinearShares
from skipkv.runtime import select
from skipkv.scorers import KeyNorm
from skipkv.testing import check_policy, toy_model, toy_tokenizer

TOKENIZER = toy_tokenizer()


def with_layers(policy: Policy, layers: Any) -> Policy:
    assert policy.budget is not None
    return policy.with_(budget=attrs.evolve(policy.budget, layers=layers))


def counted(length: int) -> list[int]:
    return [5 + i * (i + 3) % 40 for i in range(length)]


@settings(max_examples=6, deadline=None)
@given(
    shares=st.lists(st.sampled_from([1.0, 2.0]) | st.floats(0, 5), min_size=3, max_size=3).filter(
        any
    ),
    tokens=st.integers(14, 30),
    interval=st.integers(2, 12),
    lengths=st.lists(st.integers(1, 60), min_size=1, max_size=3),
    batch_size=st.integers(1, 3),
)
def test_every_head_of_a_layer_holds_what_its_layer_may(
    shares: Sequence[float], tokens: int, interval: int, lengths: list[int], batch_size: int
) -> None:
    policy = with_layers(presets.snapkv(tokens, interval=interval), tuple(shares))
    assert policy.budget is not None
    own = [b.tokens for b in policy.budget.of_layers(3)]
    assert sum(n or 0 for n in own) == 3 * tokens
    engine = Engine(toy_model(layers=3), TOKENIZER, policy, batch_size=batch_size, eos_token_ids=[])
    done = engine.generate([counted(n) for n in lengths], max_new_tokens=40, trace=True)
    for completion in done:
        assert completion.trace
        for record in completion.trace:
            held = (record.kept >= 0).sum(dim=-1)
            expected = [[min(n or 0, record.seen)] * 2 for n in own]
            assert held.tolist() == expected
        longest = max(lengths) + 40  # no memory for what no sequence can reach
        slots = sum(min((n or 0) + interval, longest) for n in own)
        assert completion.stats.peak_kv_bytes == slots * 2 * 16 * 4 * 2


@settings(max_examples=4, deadline=None)
@given(
    lengths=st.lists(st.integers(1, 60), min_size=1, max_size=3),
    name=st.sampled_from(["rkv", "h2o"]),
)
def test_equal_shares_are_no_shares(lengths: list[int], name: str) -> None:
    policy = presets.get(name)(24, interval=8)
    engines = [
        Engine(toy_model(), TOKENIZER, p, batch_size=2)
        for p in (policy, with_layers(policy, [2.0, 2.0]))
    ]
    prompts = [counted(n) for n in lengths]
    plain, shared = (
        [(c.tokens, c.stats.events) for c in engine.generate(prompts, max_new_tokens=30)]
        for engine in engines
    )
    assert plain == shared


@pytest.mark.parametrize("layers", [LinearShares(beta=20), [0.1, 5.0, 1.0, 1.0]], ids=repr)
def test_where_nothing_is_evicted_tokens_are_those_of_generate(layers: Any) -> None:
    """Layers lie in allocations of their own, and the model's tokens do not change."""
    model = toy_model(layers=4)
    policy = with_layers(presets.rkv(400), layers)
    assert policy.budget is not None
    assert min(b.tokens or 0 for b in policy.budget.of_layers(4)) < 60
    policy = with_layers(presets.rkv(2000), layers)
    ids = torch.tensor([counted(30)])
    stock = model.generate(ids, max_new_tokens=30, do_sample=False)[0, 30:].tolist()
    [done] = Engine(model, TOKENIZER, policy).generate([counted(30)], max_new_tokens=30)
    assert list(done.tokens) == stock
    with skipkv.attach(model, policy):
        own = model.generate(ids, max_new_tokens=30, do_sample=False)[0, 30:].tolist()
    assert own == stock


def test_the_laws_of_policies_hold_for_layers_that_differ() -> None:
    check_policy(with_layers(presets.rkv(1024), LinearShares(beta=20)), examples=1)


def test_shares_for_another_number_of_layers_are_refused_before_anything_is_decoded() -> None:
    policy = with_layers(presets.rkv(64), [1.0, 2.0, 3.0])
    message = r"has 3 shares, and 2 layers of the model are cached under the budget"
    with pytest.raises(ConfigError, match=message):
        Engine(toy_model(), TOKENIZER, policy)
    with pytest.raises(ConfigError, match=message), skipkv.attach(toy_model(), policy):
        pass


def test_one_set_for_all_layers_needs_layers_that_all_evict_alike() -> None:
    shared = presets.rkv(24).with_(evictor=Shared(layers=True))
    with pytest.raises(ConfigError, match="gives layers different budgets"):
        with_layers(shared, LinearShares())
    config = toy_model("qwen2", layers=3).config
    config.use_sliding_window, config.sliding_window = True, 16
    config.layer_types = ["full_attention", "sliding_attention", "full_attention"]
    windowed = Qwen2ForCausalLM(config).eval()
    message = r"keeps the same tokens in all \d layers.*hold a window or a state"
    with pytest.raises(ConfigError, match=message):
        Engine(windowed, TOKENIZER, shared)
    with pytest.raises(ConfigError, match=message), skipkv.attach(windowed, shared):
        pass


def test_a_protected_prompt_must_leave_room_in_the_smallest_layer() -> None:
    policy = Policy(budget=Budget(tokens=100, window=2, prompt=True, layers=(9.0, 1.0)))
    engine = Engine(toy_model(), TOKENIZER, policy)
    message = "in a budget of 22, the smallest of the layers, which hold 100 on average"
    with pytest.raises(InputError, match=message):
        next(iter(engine.generate([counted(30)])))


def test_a_cap_above_the_number_of_heads_takes_no_more_memory() -> None:
    taken = []
    for cap in (2.0, 9.0):  # the toy has two KV heads
        policy = presets.adakv(16, cap=cap, interval=4)
        [done] = Engine(toy_model(), TOKENIZER, policy).generate([counted(90)], max_new_tokens=9)
        assert done.error is None
        taken.append(done.stats.peak_kv_bytes)
    assert taken[0] == taken[1]


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 99), tokens=st.integers(4, 12), depth=st.integers(1, 3))
def test_select_gives_each_row_the_budget_of_its_layer(seed: int, tokens: int, depth: int) -> None:
    random = torch.Generator().manual_seed(seed)
    keys = torch.randn(depth, 2, 16, 4, generator=random)
    policy = Policy(
        budget=Budget(tokens=tokens, window=1, layers=LinearShares(beta=8)), scorer=KeyNorm()
    )
    assert policy.budget is not None
    found = select(keys, keys, policy=policy, layers=range(depth), depth=depth)
    for layer, own in enumerate(policy.budget.of_layers(depth)):
        alone = select(keys[[layer]], keys[[layer]], policy=policy.with_(budget=own))
        assert found[layer][found[layer] >= 0].tolist() == alone[alone >= 0].tolist()
