"""Layers with states in the place of entries: Qwen3-Next's linear attention."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

import skipkv
from skipkv import Engine, Prompt, presets
from skipkv.errors import InputError, SkipKVWarning, UnsupportedModelError
from skipkv.models.architecture import STATE_LAYER
from skipkv.runtime.store.states import StateStore
from skipkv.testing import check_model, toy_tokenizer

TOKENIZER = toy_tokenizer()
PROMPTS = [[5 + (7 * i + 3 * row) % 70 for i in range(n)] for row, n in enumerate((11, 3, 37))]
NEW = 40

pytestmark = pytest.mark.skipif(
    STATE_LAYER is None, reason="this transformers caches states in another way"
)


@pytest.fixture(scope="module")
def model() -> PreTrainedModel:
    config = AutoConfig.for_model(
        "qwen3_next",
        vocab_size=len(TOKENIZER),
        hidden_size=32,
        intermediate_size=32,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=8,
        layer_types=["linear_attention", "full_attention", "linear_attention"],
        linear_num_value_heads=2,
        linear_num_key_heads=2,
        linear_key_head_dim=8,
        linear_value_head_dim=8,
        num_experts=2,
        num_experts_per_tok=1,
        moe_intermediate_size=16,
        shared_expert_intermediate_size=16,
        initializer_range=0.2,
        pad_token_id=0,
        eos_token_id=None,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        made: PreTrainedModel = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    head: Any = made.get_output_embeddings()
    head.weight.data[TOKENIZER.eos_token_id] = 0  # some other token always exceeds a logit of 0
    return made.eval()


def policy() -> Any:
    return presets.rkv(16, interval=8, window=4)


def tokens(engine: Engine, prompts: list[Any], **options: Any) -> list[tuple[int, ...]]:
    done = list(engine.generate(prompts, max_new_tokens=NEW, **options))
    for one in done:
        if one.error is not None:
            raise one.error
    return [one.tokens for one in done if one.sample == 0 or one.sample == 1]


def attached(model: PreTrainedModel, prompts: list[list[int]], **options: Any) -> list[Any]:
    batch = TOKENIZER.pad({"input_ids": prompts}, padding_side="left", return_tensors="pt")
    generator: Any = model
    output = generator.generate(**batch, max_new_tokens=NEW, do_sample=False, **options)
    return [tuple(row) for row in output[:, -NEW:].tolist()]


def test_with_the_full_cache_all_ways_decode_as_generate_does(model: PreTrainedModel) -> None:
    own = [attached(model, [prompt])[0] for prompt in PROMPTS]
    engine = Engine(model, TOKENIZER, presets.full(), batch_size=2, prefill_chunk=5)
    assert tokens(engine, PROMPTS) == own
    with skipkv.attach(model, presets.full()):
        assert attached(model, PROMPTS) == own
        assert attached(model, PROMPTS[:1]) == own[:1]


WAYS: dict[str, Callable[[PreTrainedModel], list[tuple[int, ...]]]] = {
    "alone": lambda m: [tokens(Engine(m, TOKENIZER, policy()), [p])[0] for p in PROMPTS],
    "after a prefix": lambda m: [
        tokens(Engine(m, TOKENIZER, policy()), [p[2:]], prefix=p[:2])[0] for p in PROMPTS
    ],
    "as samples": lambda m: [
        tokens(
            Engine(m, TOKENIZER, policy()),
            [Prompt(p, sampling={"temperature": 1e-6, "n": 2})],
        )[1]
        for p in PROMPTS
    ],
    "with compiled layers": lambda m: tokens(
        Engine(m, TOKENIZER, policy(), batch_size=2, compile="eager"), PROMPTS
    ),
}


@pytest.mark.parametrize(
    "way",
    [
        pytest.param(way, marks=[pytest.mark.slow] * ("compiled" in way))  # some 20 seconds
        for way in WAYS
    ],
)
def test_states_move_with_their_sequence(way: str, model: PreTrainedModel) -> None:
    """Under a budget: neighbours, pieces of prompts, samples and a prefix change no token."""
    engine = Engine(model, TOKENIZER, policy(), batch_size=2, prefill_chunk=7)
    done = list(engine.generate(PROMPTS, max_new_tokens=NEW))
    assert max(one.stats.peak_entries for one in done) == 24
    assert WAYS[way](model) == [one.tokens for one in done]


def test_rows_of_a_padded_batch_are_read_one_by_one_and_keep_their_budget(
    model: PreTrainedModel,
) -> None:
    expected = tokens(Engine(model, TOKENIZER, policy()), PROMPTS)
    with skipkv.attach(model, policy()) as attachment:
        assert attached(model, PROMPTS) == expected  # one of them is longer than budget + interval
        assert max(attachment.peak_entries) == 24
        batch = TOKENIZER.pad({"input_ids": PROMPTS[:2]}, padding_side="left", return_tensors="pt")
        with pytest.raises(InputError, match=r"padding would change.*logits_to_keep=1"):
            model(**batch)


def test_a_prefix_that_another_call_has_read_brings_its_states_along(
    model: PreTrainedModel,
) -> None:
    engine = Engine(model, TOKENIZER, policy())
    prefix = engine.prefix(PROMPTS[2][:20])
    expected = tokens(engine, [PROMPTS[2][20:]], prefix=PROMPTS[2][:20])
    for _ in range(2):
        assert tokens(engine, [PROMPTS[2][20:]], prefix=prefix) == expected


def test_a_padded_batch_in_chunks_of_generate_is_read_row_by_row(model: PreTrainedModel) -> None:
    expected = tokens(Engine(model, TOKENIZER, presets.full()), PROMPTS)
    with skipkv.attach(model, presets.full()):  # two rows begin in later chunks
        assert attached(model, PROMPTS, prefill_chunk_size=8) == expected


@pytest.fixture(scope="module")
def forgetful() -> PreTrainedModel:
    """Jamba drops its states where several tokens follow others, in transformers' own code."""
    config = AutoConfig.for_model(
        "jamba",
        vocab_size=len(TOKENIZER),
        hidden_size=32,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        attn_layer_period=2,
        attn_layer_offset=1,
        mamba_d_state=8,
        mamba_dt_rank=4,
        use_mamba_kernels=False,
        num_experts=1,
        num_experts_per_tok=1,
        initializer_range=0.2,
        pad_token_id=0,
        eos_token_id=None,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        made: PreTrainedModel = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    head: Any = made.get_output_embeddings()
    head.weight.data[TOKENIZER.eos_token_id] = 0
    return made.eval()


def test_a_model_that_begins_anew_in_each_pass_is_fed_prompts_whole_or_token_by_token(
    forgetful: PreTrainedModel,
) -> None:
    engine = Engine(forgetful, TOKENIZER, presets.full(), prefill_chunk=4)
    expected = tokens(engine, PROMPTS)
    own = [attached(forgetful, [prompt])[0] for prompt in PROMPTS]
    assert expected == own  # in one pass each, without a warning
    with pytest.warns(SkipKVWarning, match="token by token"):
        assert tokens(engine, [PROMPTS[2][9:]], prefix=PROMPTS[2][:9]) == own[2:]
    with skipkv.attach(forgetful, presets.full()):
        assert attached(forgetful, PROMPTS[2:], prefill_chunk_size=8) == own[2:]
        assert attached(forgetful, PROMPTS) == own


def test_a_model_check_finds_nothing(model: PreTrainedModel) -> None:
    report = check_model(model, TOKENIZER)
    assert report.passed, str(report)


def test_a_layer_that_forgets_its_states_is_an_error(model: PreTrainedModel) -> None:
    layer: Any = model.model.layers[0].linear_attn
    whole = layer.forward
    layer.forward = lambda *args, **kwargs: whole(*args, **{**kwargs, "cache_params": None})
    try:
        with (
            skipkv.attach(model, presets.full()),
            pytest.raises(UnsupportedModelError, match="1 of 2 layers with states did not ask"),
        ):
            attached(model, PROMPTS[:1])
    finally:
        del layer.forward


def test_saved_states_come_back_and_those_made_since_are_zero() -> None:
    store = StateStore(3)
    first = store.make(0, "conv", 0, torch.ones(1, 2, 4))
    first += 1
    saved = store.save()
    second = store.make(0, "recurrent", 0, torch.ones(1, 5))
    first += 1
    second += 1
    store.load(saved)
    assert (first == 1).all()
    assert not second.any()
    assert store.bytes == 4 * 3 * (8 + 5)
