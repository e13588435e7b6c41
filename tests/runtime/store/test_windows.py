"""Layers with a sliding window: what they store, what they see, and whole models that have them."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import skipkv
from skipkv import Engine, Prompt, presets
from skipkv.errors import UnsupportedModelError
from skipkv.runtime.store.attention import attend
from skipkv.runtime.store.decode import DecodeForward
from skipkv.runtime.store.forward import Forward, PromptForward
from skipkv.runtime.store.kernels import sdpa
from skipkv.runtime.store.slots import CacheShape
from skipkv.runtime.store.softmax import PLAIN, Softmax
from skipkv.runtime.store.store import SlotStore
from skipkv.testing import toy_model, toy_tokenizer

TOKENIZER = toy_tokenizer()
PROMPTS = [[5 + (7 * i + 3 * row) % 70 for i in range(n)] for row, n in enumerate((11, 3, 30))]
NEW = 40
LAYERS, HEADS, GROUPS, DIM, LONGEST = 2, 2, 2, 3, 40


def store_of(*, window: int, sequences: int, longest: int | None = LONGEST) -> SlotStore:
    shape = CacheShape(
        layers=1, heads=HEADS, groups=GROUPS, dim=DIM, windowed=LAYERS, window=window
    )
    return SlotStore(
        shape, sequences=sequences, capacity=LONGEST, needs=skipkv.Needs(), longest=longest
    )


def random(sequences: int, heads: int, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(LAYERS, sequences, heads, LONGEST, DIM, generator=generator)


@settings(max_examples=50)
@given(
    window=st.integers(1, 9),
    lengths=st.lists(st.integers(1, LONGEST - 1), min_size=1, max_size=3),
    cuts=st.lists(st.integers(1, 12), min_size=1, max_size=6),
    fixed=st.booleans(),
    softcap=st.sampled_from([None, 0.7]),
    sinks=st.booleans(),
    wide=st.booleans(),
    seed=st.integers(0, 99),
)
def test_attention_in_a_window_is_that_of_a_loop_in_float64(
    window: int,
    lengths: list[int],
    cuts: list[int],
    fixed: bool,
    softcap: float | None,
    sinks: bool,
    wide: bool,
    seed: int,
) -> None:
    """Prompts of any lengths, in pieces of any sizes, and then decode steps."""
    rows = len(lengths)
    store = store_of(window=window, sequences=rows, longest=None if wide else LONGEST)
    keys, values = random(rows, HEADS, seed), random(rows, HEADS, seed + 1)
    queries = random(rows, HEADS * GROUPS, seed + 2)
    softmax = PLAIN
    if sinks or softcap:
        logits = torch.linspace(-1, 1, HEADS * GROUPS) if sinks else None
        softmax = Softmax(softcap=softcap, sinks=logits)

    def expect(forward: Forward, counts: list[int], columns: int) -> None:
        """Feed the next tokens of each row, and compare what each of them sees."""
        assert forward.windows is not None
        starts = [store.tokens_seen[row] - counts[row] for row in range(rows)]
        for layer in range(LAYERS):

            def batch(tensor: Tensor, fill: float, layer: int = layer) -> Tensor:
                out = torch.full((rows, tensor.shape[2], columns, DIM), fill)
                for row, (start, count) in enumerate(zip(starts, counts, strict=True)):
                    at = slice(columns - count, None)
                    out[row, :, at] = tensor[layer, row, :, start : start + count]
                return out

            key, value = forward.windows.write(layer, batch(keys, 9.0), batch(values, 9.0))
            query = batch(queries, 1.0)
            found = attend(forward.windows, layer, query, key, value, DIM**-0.5, softmax)
            assert found.isfinite().all()
            for row in range(rows):
                for column in range(columns - counts[row], columns):
                    position = starts[row] + column - (columns - counts[row])
                    past = slice(max(0, position - window + 1), position + 1)
                    for head in range(HEADS * GROUPS):
                        k = keys[layer, row, head // GROUPS, past].double()
                        v = values[layer, row, head // GROUPS, past].double()
                        logits = k @ queries[layer, row, head, position].double() * DIM**-0.5
                        if softcap:
                            logits = softcap * (logits / softcap).tanh()
                        if softmax.sinks is not None:
                            logits = torch.cat([logits, softmax.sinks[head].double()[None]])
                        weights = logits.softmax(dim=0)[: len(v)]
                        close = torch.allclose(
                            found[row, column, head].double(), weights @ v, atol=1e-5
                        )
                        assert close, (row, position, head)

    left, cut = list(lengths), 0
    while any(left):
        counts = [min(n, cuts[cut % len(cuts)]) for n in left]
        left = [n - c for n, c in zip(left, counts, strict=True)]
        columns, cut = max(counts), cut + 1
        forward: Forward = PromptForward(store, first=0, counts=counts, columns=columns)
        expect(forward, counts, columns)
    step = DecodeForward(store, first=0, last=rows, kernel=sdpa if fixed else None)
    for _ in range(LONGEST - max(lengths)):
        if fixed:
            step.place()
            step.count()
        else:
            step.begin()
        expect(step, [1] * rows, 1)


def own_tokens(model: Any, prompts: list[list[int]]) -> list[tuple[int, ...]]:
    """What `generate()` decodes of each prompt alone."""
    return [
        tuple(
            model.generate(torch.tensor([prompt]), max_new_tokens=NEW, do_sample=False)[
                0, len(prompt) :
            ].tolist()
        )
        for prompt in prompts
    ]


@pytest.mark.parametrize("window", [4, 16, 100])
@pytest.mark.parametrize("family", ["qwen2", "qwen3"])
def test_the_engine_decodes_models_with_windows_as_generate_does(family: Any, window: int) -> None:
    model = toy_model(family, layers=4, sliding_window=window)
    engine = Engine(model, TOKENIZER, presets.full(), batch_size=2, prefill_chunk=7)
    found = [c.tokens for c in engine.generate(PROMPTS, max_new_tokens=NEW)]
    assert found == own_tokens(model, PROMPTS)


WAYS: dict[str, Callable[[Engine], list[tuple[int, ...]]]] = {
    "alone": lambda engine: [
        c.tokens for p in PROMPTS for c in engine.generate([p], max_new_tokens=NEW)
    ],
    "behind a prefix": lambda engine: [
        c.tokens
        for p in PROMPTS
        for c in engine.generate([p[2:]], prefix=p[:2], max_new_tokens=NEW)
    ],
    "as samples": lambda engine: [
        c.tokens
        for p in PROMPTS
        for c in engine.generate(
            [Prompt(p, sampling={"temperature": 1e-6, "n": 2})], max_new_tokens=NEW
        )
        if c.sample == 1
    ],
}


@pytest.mark.parametrize("way", WAYS)
def test_windows_move_with_their_sequence(way: str) -> None:
    """Under a budget: neighbours that come and go, samples and a prefix change no token."""
    model = toy_model("qwen2", layers=4, sliding_window=6)
    policy = presets.rkv(16, interval=8, window=4)
    engine = Engine(model, TOKENIZER, policy, batch_size=2)
    done = list(engine.generate(PROMPTS, max_new_tokens=NEW))
    assert max(c.stats.peak_entries for c in done) == 24
    assert WAYS[way](engine) == [c.tokens for c in done]


def test_a_prefix_serves_calls_whose_sequences_come_to_other_lengths() -> None:
    """A window longer than a sequence has room for the sequence only."""
    model = toy_model("qwen2", layers=4, sliding_window=100)
    engine = Engine(model, TOKENIZER, presets.full())
    prefix = engine.prefix(PROMPTS[2][:20])
    [expected] = own_tokens(model, [PROMPTS[2]])
    for new in (20, NEW, 5):
        [found] = engine.generate([PROMPTS[2][20:]], prefix=prefix, max_new_tokens=new)
        assert found.tokens == expected[:new]


def test_the_memory_of_windows_is_part_of_what_a_sequence_costs() -> None:
    prompt, policy = [PROMPTS[2]], presets.streaming_llm(16, interval=8)

    def bytes_of(window: int) -> int:
        model = toy_model("qwen2", layers=4, heads=2, dim=16, sliding_window=window)
        [done] = Engine(model, TOKENIZER, policy).generate(prompt, max_new_tokens=NEW)
        return done.stats.peak_kv_bytes

    entry = 2 * 4 * 2 * 16  # keys and values, float32, heads, dim
    assert bytes_of(8) == 2 * (24 + 8) * entry
    # no more than the sequence can come to
    assert bytes_of(10_000) == 2 * (24 + len(PROMPTS[2]) + NEW) * entry


def test_a_window_other_than_the_configs_is_an_error() -> None:
    model = toy_model("qwen2", layers=2, sliding_window=8)
    for layer in model.model.layers:
        layer.self_attn.sliding_window = 5 if layer.self_attn.layer_idx else None
    with (
        skipkv.attach(model, presets.full()),
        pytest.raises(UnsupportedModelError, match="window of 5 tokens; by the model's config"),
    ):
        model.generate(torch.tensor([PROMPTS[0]]), max_new_tokens=2)
