"""What only a GPU can show: the same tokens, exact budgets, no waiting, flat memory."""

from collections.abc import Iterator
from typing import Any

import pytest
import torch

from skipkv import Engine, Sampling, presets
from skipkv.runtime import kernels
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
    step = DecodeLoop._step

    def watched(loop: DecodeLoop, *args: Any) -> Any:
        torch.cuda.set_sync_debug_mode("error")
        try:
            return step(loop, *args)
        finally:
            torch.cuda.set_sync_debug_mode("default")

    monkeypatch.setattr(DecodeLoop, "_step", watched)
    policy = presets.full() if name == "full" else BUDGETED[name]
    engine = Engine(model_on_gpu(), toy_tokenizer(), policy, eos_token_ids=[], graphs=False)
    assert all(c.error is None for c in engine.generate(PROMPTS, max_new_tokens=80))


@pytest.mark.parametrize("name", BUDGETED)
@pytest.mark.parametrize("sampling", [None, Sampling(temperature=1.5, seed=1)], ids=repr)
@pytest.mark.filterwarnings("error")  # a step that cannot be recorded warns
def test_a_recorded_graph_decodes_what_steps_one_by_one_do(
    name: str, sampling: Sampling | None
) -> None:
    """Prompts of different lengths in two slots: events, a newcomer, a last one alone."""
    model = model_on_gpu()
    said = []
    for graphs in (False, True):
        engine = Engine(
            model, toy_tokenizer(), BUDGETED[name], batch_size=2, eos_token_ids=[], graphs=graphs
        )
        prompts = [list(range(5, 5 + length)) for length in (20, 9, 41)]
        said.append(
            [c.tokens for c in engine.generate(prompts, max_new_tokens=90, sampling=sampling)]
        )
    assert said[0] == said[1]


def test_every_way_to_attend_gives_the_same() -> None:
    """Also the one that needs a GPU; one that is not built for it would not be chosen."""
    random = torch.Generator("cuda").manual_seed(0)
    key, value = torch.randn(
        2, 3, 2, 48, 64, generator=random, device="cuda", dtype=torch.bfloat16
    ).unbind()
    query = torch.randn(3, 2, 7, 64, generator=random, device="cuda", dtype=torch.bfloat16)
    lengths = torch.randint(1, 49, (3, 2), generator=random, device="cuda")
    empty = torch.arange(48, device="cuda") >= lengths[..., None]
    bias = torch.zeros_like(empty, dtype=key.dtype).masked_fill(empty, -torch.inf)[:, :, None]
    inputs = query, key, value, bias, lengths, 0.125
    expected = kernels.sdpa(*inputs).float()
    for kernel in kernels.CANDIDATES.values():
        assert torch.allclose(kernel(*inputs).float(), expected, atol=2e-2)
    assert kernels.fastest(key, groups=7) in kernels.CANDIDATES


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
