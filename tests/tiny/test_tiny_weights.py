"""The weights that come with the package: small, stock, able, and hurt by blind eviction."""

import sys
from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer
from transformers import AutoTokenizer, Qwen2Config, Qwen2ForCausalLM

import skipkv
from skipkv import models, presets, tiny
from skipkv.tiny.report import TINY, accuracy, blind
from skipkv.tiny.vocabulary import TOKENS, save_tokenizer, tokenizer

WEIGHTS = Path(skipkv.__file__).parent / "tiny" / "weights"


@pytest.fixture(scope="module")
def loaded():
    return tiny.load(device="cpu")


def test_the_model_is_a_stock_one_with_grouped_heads(loaded):
    model, _ = loaded
    assert type(model) is Qwen2ForCausalLM
    assert model.config.num_key_value_heads < model.config.num_attention_heads
    assert not model.training


def test_the_files_are_small():
    assert sum(file.stat().st_size for file in WEIGHTS.iterdir()) < 16 * 2**20


def test_the_tokenizer_that_comes_with_it_is_the_one_the_code_makes(loaded):
    _, saved = loaded
    assert saved.convert_ids_to_tokens(range(len(TOKENS))) == list(TOKENS)
    assert saved.chat_template == tokenizer().chat_template


@pytest.mark.parametrize("trusted", [False, True])
@pytest.mark.parametrize("made", ["shipped", "new"])
def test_plain_transformers_reads_the_tokenizer_as_its_file_says(
    trusted, made, tmp_path, monkeypatch
):
    monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(tmp_path / "x"))
    monkeypatch.setattr(sys, "path", list(sys.path))
    folder = WEIGHTS
    if made == "new":
        folder = tmp_path / "model"
        Qwen2Config().save_pretrained(folder)
        save_tokenizer(folder)
    text = tiny.problems(1)[0].question + "\n"
    truth = Tokenizer.from_file(str(folder / "tokenizer.json")).encode(text).ids
    plain = AutoTokenizer.from_pretrained(folder, trust_remote_code=trusted)
    assert plain(text)["input_ids"] == truth
    assert plain.decode(truth) == text
    assert plain.chat_template == tokenizer().chat_template


def test_tiny_is_a_name_wherever_models_are_named(loaded):
    named, _ = models.load("tiny", device="cpu")
    for (name, one), (_, other) in zip(
        loaded[0].named_parameters(), named.named_parameters(), strict=True
    ):
        assert torch.equal(one, other), name


def test_it_solves_problems_it_has_not_seen(loaded):
    right, length = accuracy(*loaded, presets.full(), tiny.problems(40, seed=1))
    assert right >= 0.9
    assert 300 < length < 500


@pytest.mark.slow
def test_it_solves_nearly_all_and_blind_eviction_costs_much(loaded):
    asked = tiny.problems(500)
    full, length = accuracy(*loaded, presets.full(), asked)
    assert full >= 0.95
    quarter = round(length / 4)
    for policy in blind(quarter, TINY.interval).values():
        assert accuracy(*loaded, policy, asked)[0] <= full - 0.3
