"""Presets of the same needs as others: each decodes in every shape of model within its budget."""

from typing import Any

import pytest
import torch
from toy_prompts import PRESETS

import skipkv
from skipkv import Engine, presets
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
    assert attached.peak_entries == [20, 20]
    for completion in expected:
        assert completion.stats.peak_entries == 20
        assert len(completion.trace) >= 2
        for record in completion.trace:
            assert (record.kept >= 0).sum(dim=-1).unique().tolist() == [16]
