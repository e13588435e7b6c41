"""Presets of the same needs as others: each decodes in every shape of model within its budget."""

from typing import Any

import pytest
import torch
from toy_prompts import PRESETS

import skipkv
from skipkv import Engine, presets
from skipkv.evictors.protocol import most_of, pools_heads
from skipkv.testing import toy_model, toy_tokenizer

OTHERS = [name for name in presets.BUDGETED if name not in PRESETS]


@pytest.mark.parametrize("family", ["llama", "qwen2", "qwen3"])
@pytest.mark.parametrize("name", OTHERS)
def test_a_preset_decodes_alike_under_both_frontends_within_its_budget(
    name: str, family: Any
) -> None:
    model, policy = toy_model(family), presets.get(name)(16, window=4, interval=4, prompt=False)
    prompts = [[5 + 7 * i % 60 for i in range(n)] for n in (19, 9)]
    engine = Engine(model, toy_tokenizer(), policy, eos_token_ids=[])
    expected = list(engine.generate(prompts, max_new_tokens=14, trace=True))
    ids = torch.tensor([[0] * (19 - len(p)) + p for p in prompts])
    mask = torch.tensor([[0] * (19 - len(p)) + [1] * len(p) for p in prompts])
    with skipkv.attach(model, policy) as attached:
        output = model.generate(ids, attention_mask=mask, max_new_tokens=14, do_sample=False)
    assert [tuple(row) for row in output[:, 19:].tolist()] == [c.tokens for c in expected]
    own, pools = policy.budget.of_layers(2), pools_heads(policy.evictor)
    most = max(most_of(policy.evictor, budget.tokens) + 4 for budget in own)
    for completion, peak in zip(expected, attached.peak_entries, strict=True):
        assert completion.stats.peak_entries == peak <= most
        assert pools or policy.budget.layers or peak == most
        assert len(completion.trace) >= 2
        for record in completion.trace:
            held = (record.kept >= 0).sum(dim=-1)  # [layers H]
            for heads, budget in zip(held.tolist(), own, strict=True):
                allowed = min(budget.tokens, record.seen)
                assert sum(heads) == 2 * allowed
                assert pools or set(heads) == {allowed}
