"""The weights of the rambling reasoner: small, stock, able, and sampled."""

import re
from pathlib import Path

import pytest
from transformers import AutoTokenizer, Qwen2ForCausalLM

import skipkv
from skipkv import Engine, models, presets
from skipkv.runtime import Sampling
from skipkv.tiny import rambler
from skipkv.tiny.rambler.phrases import TOKENS
from skipkv.tiny.vocabulary import tokenizer

WEIGHTS = Path(skipkv.__file__).parent / "tiny" / "rambler" / "weights"


@pytest.fixture(scope="module")
def loaded():
    return rambler.load(device="cpu")


def test_the_model_is_a_stock_one_with_grouped_heads(loaded):
    model, _ = loaded
    assert type(model) is Qwen2ForCausalLM
    assert model.config.num_key_value_heads < model.config.num_attention_heads


def test_the_files_are_small():
    assert sum(file.stat().st_size for file in WEIGHTS.iterdir()) < 16 * 2**20


def test_the_tokenizer_that_comes_with_it_is_the_one_the_code_makes(loaded):
    _, saved = loaded
    assert saved.convert_ids_to_tokens(range(len(TOKENS))) == list(TOKENS)
    assert saved.chat_template == tokenizer(TOKENS).chat_template
    plain = AutoTokenizer.from_pretrained(WEIGHTS)
    text = rambler.problems(1)[0].question + "\n"
    assert plain(text)["input_ids"] == saved(text)["input_ids"]


def test_its_generation_config_says_how_it_is_sampled(loaded):
    model, _ = loaded
    assert Sampling.from_model(model) == Sampling(temperature=0.6, top_p=0.95)


def test_rambler_is_a_name_wherever_models_are_named():
    assert models.load("rambler", device="cpu")[0].config.hidden_size == 192


def test_it_errs_at_times_and_solves_most_problems(loaded):
    asked = rambler.problems(10, seed=1)
    engine = Engine(*loaded, presets.full(), batch_size=10)
    chats = [[{"role": "user", "content": problem.question}] for problem in asked]
    sampling = Sampling(temperature=0.6, top_p=0.95)
    done = list(engine.generate(chats, max_new_tokens=1408, sampling=sampling))
    boxed = [re.findall(r"\\boxed\{(\d+)\}", completion.text)[-1:] for completion in done]
    right = sum(a == [p.answer] for a, p in zip(boxed, asked, strict=True))
    assert right >= 6
    assert any("not what I had" in completion.text for completion in done)
