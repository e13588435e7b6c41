"""The floor decodes with the model itself over all the entries that it claims to hold."""

from typing import Any

import pytest
import torch
from transformers import DynamicCache

from skipkv.benchmark import floor
from skipkv.benchmark.floor import FloorCache, floor_attention, run_floor, run_recorded_floor
from skipkv.benchmark.memory import ProcessMemory
from skipkv.benchmark.recorder import Recorder
from skipkv.benchmark.schedule import widths
from skipkv.errors import SkipKVWarning
from skipkv.runtime.seam.compiled import CompiledLayers
from skipkv.runtime.seam.names import cache_name

PROMPTS = torch.tensor([[5, 6, 7, 8, 9, 10], [20, 30, 40, 50, 60, 70]])


def run(model: Any, budget: int, new_tokens: int = 20) -> tuple[torch.Tensor, FloorCache, Recorder]:
    recorder = Recorder(ProcessMemory(), every=1000)
    recorder.begin()
    tokens, cache = run_floor(
        model, PROMPTS, new_tokens=new_tokens, budget=budget, interval=4, recorder=recorder
    )
    return tokens, cache, recorder


def test_with_room_for_all_it_says_what_generate_says(small: tuple[Any, Any]) -> None:
    tokens, _, recorder = run(small[0], budget=100)
    expected = small[0].generate(
        PROMPTS, attention_mask=torch.ones_like(PROMPTS), max_new_tokens=20, do_sample=False,
        eos_token_id=None, pad_token_id=0,
    )  # fmt: skip
    assert torch.equal(tokens, expected[:, 6:])
    assert len(recorder.steps) == 19
    assert len(recorder.prefill) == 1


def test_its_logits_are_the_model_s_own_over_the_same_cache(small: tuple[Any, Any]) -> None:
    model = small[0]
    _, cache, _ = run(model, budget=8)
    width = 7
    past = DynamicCache()
    for layer in range(2):
        past.update(
            cache.keys[layer, :, :, : width - 1].clone(),
            cache.values[layer, :, :, : width - 1].clone(),
            layer,
        )
    name = cache_name(model)
    ids, position = torch.tensor([[3], [4]]), torch.tensor([[50], [50]])
    with torch.inference_mode():
        own = model(input_ids=ids, position_ids=position, **{name: past}).logits
        cache.attend_to(width)
        with floor_attention(model):
            bare = model(input_ids=ids, position_ids=position, **{name: cache}).logits
    assert torch.allclose(bare, own, atol=1e-5)


def test_it_attends_to_as_many_entries_at_every_step_as_it_claims(
    small: tuple[Any, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[int, ...]] = []
    attend = floor.attend

    def spy(module: Any, query: Any, key: Any, value: Any, *args: Any, **kwargs: Any) -> Any:
        seen.append((key.shape[2], value.shape[2]))
        return attend(module, query, key, value, *args, **kwargs)

    monkeypatch.setattr(floor, "attend", spy)
    run(small[0], budget=8)
    expected = list(widths(6, 19, budget=8, interval=4))
    assert seen[::2] == seen[1::2] == [(w, w) for w in expected]  # two layers
    assert max(expected) == 12


def test_the_model_attends_as_before_afterwards(small: tuple[Any, Any]) -> None:
    before = small[0].config._attn_implementation
    run(small[0], budget=8, new_tokens=3)
    assert small[0].config._attn_implementation == before


def run_recorded(model: Any, **options: Any) -> tuple[list[list[int]], FloorCache, Recorder]:
    recorder = Recorder(ProcessMemory(), every=1000)
    recorder.begin()
    tokens, cache = run_recorded_floor(
        model, PROMPTS, new_tokens=20, budget=8, interval=4, recorder=recorder, **options
    )
    return tokens.tolist(), cache, recorder


def again(body: Any) -> Any:
    """Records like a graph that is launched anew at every replay, but does nothing meanwhile."""
    return body


def test_the_recorded_floor_says_the_same_however_it_is_launched(small: tuple[Any, Any]) -> None:
    expected, cache, recorder = run_recorded(small[0], record=None, layers=None)
    assert cache.keys.shape[3] == 6 + 4  # prompt and interval
    assert len(recorder.steps) == 19
    recorded, *_ = run_recorded(small[0], record=again, layers=None)
    assert recorded == expected
    layers = CompiledLayers(small[0], backend="eager")
    compiled, *_ = run_recorded(small[0], record=again, layers=layers)
    assert compiled == expected
    assert not layers.failed


def test_a_recorded_step_writes_to_the_next_slot_and_reads_all(small: tuple[Any, Any]) -> None:
    _, cache, _ = run_recorded(small[0], record=None, layers=None)
    model, name = small[0], cache_name(small[0])
    past = DynamicCache()
    for layer in range(2):
        # 19 steps have used the slots 6 to 9 in turn; the next one uses the slot of the 16th
        others = [i for i in range(10) if i != 6 + 19 % 4]
        past.update(cache.keys[layer][:, :, others], cache.values[layer][:, :, others], layer)
    ids, position = torch.tensor([[3], [4]]), torch.tensor([[50], [50]])
    with torch.inference_mode(), floor_attention(model):
        bare = model(input_ids=ids, position_ids=position, **{name: cache}).logits
    with torch.inference_mode():
        own = model(input_ids=ids, position_ids=position, **{name: past}).logits
    assert torch.allclose(bare, own, atol=1e-5)


def test_a_floor_that_cannot_be_recorded_is_launched_step_by_step(small: tuple[Any, Any]) -> None:
    def refuse(body: Any) -> Any:
        raise RuntimeError("capturing failed")

    expected, *_ = run_recorded(small[0], record=None, layers=None)
    with pytest.warns(SkipKVWarning, match="not recorded: RuntimeError: capturing failed"):
        launched, *_ = run_recorded(small[0], record=refuse, layers=None)
    assert launched == expected
