"""Adapted, quantised and placed models decode as they do by themselves, or are refused."""

from pathlib import Path
from typing import Any

import pytest
import torch
from adapted_list import CASES, SIZES

import skipkv
from skipkv import Engine, presets
from skipkv.errors import UnsupportedModelError
from skipkv.steerers import AdditiveSteerer, SteeringVector
from skipkv.testing import toy_model, toy_tokenizer

TOKENIZER = toy_tokenizer()
# The last one opens a thought.
PROMPTS = [TOKENIZER(p)["input_ids"] for p in ("one plus two", "<think>let me check.\n\n")]
NEW = 12


def generated(model: Any) -> list[tuple[int, ...]]:
    found = []
    for prompt in PROMPTS:
        ids = torch.tensor([prompt])
        output = model.generate(input_ids=ids, max_new_tokens=NEW, do_sample=False)
        found.append(tuple(output[0, len(prompt) :].tolist()))
    return found


def decoded(model: Any, policy: Any) -> list[tuple[int, ...]]:
    done = list(Engine(model, TOKENIZER, policy).generate(PROMPTS, max_new_tokens=NEW))
    assert [c.error for c in done] == [None] * len(done)
    return [c.tokens for c in done]


@pytest.mark.parametrize("name", CASES)
def test_a_changed_model_decodes_as_it_does_by_itself_or_is_refused(
    name: str, tmp_path: Path
) -> None:
    """Every row of the table in docs/models.md."""
    case = CASES[name]
    pytest.importorskip(case.package, reason="make test-adapted installs it")
    model = case.make(tmp_path)
    if case.refused is not None:
        with pytest.raises(UnsupportedModelError, match=case.refused):
            Engine(model, TOKENIZER, presets.full())
        with (
            pytest.raises(UnsupportedModelError, match=case.refused),
            skipkv.attach(model, presets.full()),
        ):
            pass
        return
    own = generated(model)
    if case.package == "peft":
        assert own != generated(toy_model(**SIZES))  # the adapter matters
    full = decoded(model, presets.full())
    with skipkv.attach(model, presets.full()):
        under_attach = generated(model)
    if not case.rounds:
        assert full == under_attach == own
    policy = presets.snapkv(12, interval=6)
    [short, long] = Engine(model, TOKENIZER, policy).generate(PROMPTS, max_new_tokens=24)
    assert short.stats.peak_entries == long.stats.peak_entries == 18
    vector = 9 * torch.tensor([1.0, -1.0]).repeat(32)
    steerer = AdditiveSteerer(SteeringVector(vector=vector, layer=1, model="a test"))
    steered = decoded(model, presets.skipkv(64, interval=6, steering=steerer))
    assert steered[1] != full[1]
    assert steered[0] == full[0] or case.rounds
    assert generated(model) == own  # the model is as it was


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_under_autocast_a_model_decodes_as_it_does_by_itself(dtype: torch.dtype) -> None:
    model = toy_model(**SIZES)
    with torch.autocast("cpu", dtype=dtype):
        own = generated(model)
        assert decoded(model, presets.full()) == own
        with skipkv.attach(model, presets.full()):
            assert generated(model) == own
