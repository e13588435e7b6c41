"""What only a GPU can show: the same tokens, exact budgets, no waiting, flat memory."""

from collections.abc import Iterator
from typing import Any

import pytest
import torch

from skipkv import Engine, presets
from skipkv.runtime.loop import DecodeLoop
from skipkv.testing import toy_model, toy_tokenizer

pytestmark = [
    pytest.mark.cuda,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="torch finds no GPU here"),
]
PROMPTS = [list(range(5, 25)), list(range(30, 50)), list(range(40, 60))]
BUDGETED = {
    "streaming_llm": presets.streaming_llm(32, interval=16),
    "h2o": presets.h2o(32, interval=16),
    "tova": presets.tova(32, interval=16),
    "snapkv": presets.snapkv(32, interval=16),
    "rkv": presets.rkv(32, interval=16),
    "skipkv": presets.skipkv(32, interval=16),
}


def model_on_gpu(dtype: torch.dtype = torch.float32) -> Any:
    return torch.nn.Module.to(
        toy_model("qwen2", layers=3, heads=2, groups=3, dim=64), "cuda", dtype
    )


@pytest.fixture(autouse=True)
def exact() -> Iterator[None]:
    """float32 is float32."""
    before = torch.backends.cuda.matmul.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = False
    yield
    torch.backends.cuda.matmul.allow_tf32 = before


def test_the_full_cache_decodes_greedily_what_generate_does() -> None:
    model = model_on_gpu()
    ids = torch.tensor(PROMPTS, device="cuda")
    expected = model.generate(
        ids,
        attention_mask=torch.ones_like(ids),
        max_new_tokens=100,
        do_sample=False,
        eos_token_id=None,
        pad_token_id=0,
    )[:, 20:]
    engine = Engine(model, toy_tokenizer(), presets.full(), eos_token_ids=[])
    assert [list(c.tokens) for c in engine.generate(PROMPTS, max_new_tokens=100)] == (
        expected.tolist()
    )


@pytest.mark.parametrize("name", BUDGETED)
def test_a_policy_decodes_the_same_on_the_gpu_as_on_the_cpu(name: str) -> None:
    said = []
    for model in (toy_model("qwen2", layers=3, heads=2, groups=3, dim=64), model_on_gpu()):
        engine = Engine(model, toy_tokenizer(), BUDGETED[name], eos_token_ids=[])
        said.append([c.tokens for c in engine.generate(PROMPTS, max_new_tokens=60)])
    assert said[0] == said[1]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", BUDGETED)
def test_budgets_are_exact_in_half_precision(name: str, dtype: torch.dtype) -> None:
    engine = Engine(model_on_gpu(dtype), toy_tokenizer(), BUDGETED[name], eos_token_ids=[])
    for completion in engine.generate(PROMPTS, max_new_tokens=100):
        assert completion.error is None
        assert completion.stats.peak_entries == 48
        # 3 layers, 2 heads, 64 numbers of 2 bytes, keys and values
        assert completion.stats.peak_kv_bytes == 48 * 3 * 2 * 64 * 2 * 2


@pytest.mark.parametrize("name", ["full", *BUDGETED])
def test_a_decode_step_waits_for_nothing(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    forward = DecodeLoop._forward

    def watched(loop: DecodeLoop, *args: Any, prompt: bool) -> Any:
        if prompt:
            return forward(loop, *args, prompt=prompt)
        torch.cuda.set_sync_debug_mode("error")
        try:
            return forward(loop, *args, prompt=prompt)
        finally:
            torch.cuda.set_sync_debug_mode("default")

    monkeypatch.setattr(DecodeLoop, "_forward", watched)
    policy = presets.full() if name == "full" else BUDGETED[name]
    engine = Engine(model_on_gpu(), toy_tokenizer(), policy, eos_token_ids=[])
    assert all(c.error is None for c in engine.generate(PROMPTS, max_new_tokens=80))


@pytest.mark.parametrize("name", BUDGETED)
def test_memory_does_not_grow_with_what_is_decoded(name: str) -> None:
    engine = Engine(model_on_gpu(), toy_tokenizer(), BUDGETED[name], eos_token_ids=[])
    peaks = []
    for new_tokens in (64, 200, 1600):
        torch.cuda.reset_peak_memory_stats()
        list(engine.generate(PROMPTS, max_new_tokens=new_tokens))
        peaks.append(torch.cuda.max_memory_allocated())
    # the first run pays for what CUDA's libraries keep; sentences add a row each
    assert peaks[2] - peaks[1] <= 2**20
