"""Decode steps recorded once and replayed: on a CPU by a recorder that knows only tensors."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from replayed_steps import Recorder
from torch import Tensor
from toy_prompts import PRESETS, apart
from transformers import AutoModelForCausalLM, GptOssConfig, PreTrainedModel

from skipkv import (
    Budget,
    CacheView,
    Decayed,
    Engine,
    LastAbove,
    LongestGap,
    Memory,
    Needs,
    Policy,
    Sampling,
    presets,
)
from skipkv.evictors import Pooled
from skipkv.runtime import graph
from skipkv.scorers import GateScore, Random, WriteGate
from skipkv.scorers.algebra import ScorerAlgebra
from skipkv.steerers import AdaptiveSteerer, SteeringVector
from skipkv.testing import toy_model, toy_tokenizer

PROMPTS = ["one plus two", "a", "wait so three plus four is seven", "two"]


class Recorded(ScorerAlgebra):
    """Scores by statistics of attention, and by what it remembers of them."""

    memory = Memory("recorded")
    statistics = (LastAbove(threshold=0.1), Decayed(factor=0.9), LongestGap(threshold=0.1))
    needs = Needs(records=(memory, *statistics))

    def score(self, view: CacheView) -> Tensor:
        last, recent, gap = (view.record(statistic) for statistic in self.statistics)
        return last / view.seen[:, None, None] + recent + gap + view.record(self.memory)

    def remember(self, view: CacheView) -> dict[Memory, Tensor]:
        return {self.memory: 0.5 * view.record(self.memory) + view.record(self.statistics[1])}


def steered() -> Policy:
    model = toy_model()
    vector = SteeringVector(
        vector=torch.linspace(-1, 1, model.config.hidden_size), layer=1, model="toy"
    )
    steering = AdaptiveSteerer(vector, strength=2.0, growth=0.5)
    return presets.skipkv(24, threshold=0.5, interval=8, steering=steering)


POLICIES = {name: presets.get(name)(24, interval=8) for name in PRESETS if name != "skipkv"}
POLICIES["skipkv"] = steered()
POLICIES["seldom"] = presets.h2o(24, interval=36)  # more steps than are counted together
POLICIES["records"] = Policy(
    budget=Budget(tokens=24, interval=8, window=4), scorer=Random(fresh=True) + Recorded()
)
POLICIES["layers"] = apart(POLICIES["rkv"])
POLICIES["pooled"] = POLICIES["rkv"].with_(evictor=Pooled(cap=1.5))
POLICIES["written"] = Policy(
    budget=Budget(tokens=24, interval=8, window=4),
    scorer=GateScore(
        gate=WriteGate(
            outer=torch.randn(2, 64, 2, generator=torch.Generator().manual_seed(1)),
            outer_bias=torch.zeros(2, 2),
        )
    ),
)


def decode(
    policy: Policy,
    model: PreTrainedModel | None = None,
    *,
    graphs: bool | graph.Record = True,
    **options: Any,
) -> list[Any]:
    model = model or toy_model(eos=True, seed=3)
    engine = Engine(model, toy_tokenizer(), policy, batch_size=3, graphs=graphs)
    completions = engine.generate(PROMPTS, max_new_tokens=40, trace=True, **options)
    return [
        (c.tokens, c.stop_reason, [e.kept.tolist() for e in c.trace or ()], c.stats.events)
        for c in completions
    ]


@pytest.mark.parametrize("name", POLICIES)
@pytest.mark.parametrize("sampling", [None, Sampling(temperature=1.5, top_k=20, seed=1)], ids=repr)
def test_replayed_steps_give_the_tokens_and_keep_the_entries_of_steps_one_by_one(
    name: str, sampling: Sampling | None
) -> None:
    """Sequences end and others begin meanwhile, events compact the cache between replays."""
    expected = decode(POLICIES[name], sampling=sampling)
    recorder = Recorder()
    assert decode(POLICIES[name], graphs=recorder, sampling=sampling) == expected
    assert len(recorder.recorded) >= 2  # one for every number of sequences that lasts
    assert recorder.replays > 2 * len(recorder.recorded)


@pytest.mark.parametrize("second", ["full_attention", "sliding_attention"])
def test_attention_with_sinks_and_windows_is_recorded_too(second: str) -> None:
    config = GptOssConfig(
        vocab_size=len(toy_tokenizer()),
        hidden_size=32,
        intermediate_size=16,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=8,
        num_local_experts=2,
        num_experts_per_tok=1,
        layer_types=["full_attention", second],
        sliding_window=12,
        initializer_range=0.2,
        eos_token_id=1,
    )
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()
    for layer in model.model.layers:
        torch.nn.init.constant_(layer.self_attn.sinks, 2.0)
    expected = decode(presets.snapkv(24, interval=8), model)
    recorder = Recorder()
    assert decode(presets.snapkv(24, interval=8), model, graphs=recorder) == expected
    assert recorder.replays


def test_a_step_that_cannot_be_recorded_is_launched_and_a_warning_says_why() -> None:
    expected = decode(POLICIES["rkv"])
    asked: list[int] = []

    def refuse(body: Callable[[], None]) -> Callable[[], object]:
        asked.append(1)
        raise RuntimeError("operation not permitted when stream is capturing")

    with pytest.warns(UserWarning, match=r"RuntimeError: operation not permitted.*same tokens"):
        assert decode(POLICIES["rkv"], graphs=refuse) == expected
    assert asked == [1]


def test_caches_that_grow_are_not_recorded() -> None:
    recorder = Recorder()
    decode(presets.full(), graphs=recorder)
    assert not recorder.recorded


def test_a_cpu_records_nothing() -> None:
    assert graph.recorder(torch.device("cpu")) is None
