"""A model of a class that skipkv does not know is tried before it decodes."""

import warnings

import pytest
import torch
from house_model import (
    FavouringAttention,
    HouseAttention,
    UnseenAttention,
    house_model,
)
from transformers import AutoModelForCausalLM, BartConfig

import skipkv
from skipkv import Engine, presets
from skipkv.errors import SkipKVWarning, UnsupportedModelError
from skipkv.testing import toy_tokenizer

TOKENIZER = toy_tokenizer()
PROMPT = list(range(20, 40))


def test_a_class_that_follows_the_conventions_decodes_after_one_warning() -> None:
    model = house_model(HouseAttention)
    with pytest.warns(SkipKVWarning, match=r"'house_style'.*the model's own|own logits"):
        engine = Engine(model, TOKENIZER, presets.full())
    [completion] = engine.generate([PROMPT], max_new_tokens=20)
    expected = model.generate(torch.tensor([PROMPT]), max_new_tokens=20, do_sample=False)
    assert list(completion.tokens) == expected[0, len(PROMPT) :].tolist()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with skipkv.attach(model, presets.rkv(12, interval=4)) as attached:
            model.generate(torch.tensor([PROMPT]), max_new_tokens=20, do_sample=False)
    assert attached.peak_entries == [16]


@pytest.mark.parametrize(
    ("attention", "found"),
    [
        (FavouringAttention, r"logits .* differ from the model's own by \d"),
        (UnseenAttention, "0 attended through it"),
    ],
)
def test_a_class_that_departs_from_them_is_refused_with_what_differed(
    attention: type[HouseAttention], found: str
) -> None:
    model = house_model(attention)
    ids = torch.tensor([PROMPT])
    before = model.generate(ids, max_new_tokens=5, do_sample=False)
    for _ in range(2):
        with pytest.raises(UnsupportedModelError, match=rf"'house_style'.*{found}"):
            Engine(model, TOKENIZER, presets.full())
        with (
            pytest.raises(UnsupportedModelError, match=found),
            skipkv.attach(model, presets.full()),
        ):
            pass
    assert (model.generate(ids, max_new_tokens=5, do_sample=False) == before).all()


def test_a_class_that_counts_its_cache_in_the_place_of_positions_is_refused() -> None:
    """Bart's decoder: right for the longest prompt of a batch, and wrong for all others."""
    config = BartConfig(
        vocab_size=len(TOKENIZER),
        d_model=32,
        encoder_layers=2,
        decoder_layers=2,
        encoder_attention_heads=4,
        decoder_attention_heads=4,
        decoder_ffn_dim=32,
        init_std=0.2,
    )
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()
    with pytest.raises(UnsupportedModelError, match=r"beside a longer one.*position_ids.*its own"):
        Engine(model, TOKENIZER, presets.full())


def test_attention_with_other_heads_than_the_config_says_is_refused_with_both() -> None:
    model = house_model(HouseAttention)
    model.config.num_key_value_heads = 1
    with pytest.raises(UnsupportedModelError, match=r"keys of 2 heads with 8 .* be 1 heads with 8"):
        Engine(model, TOKENIZER, presets.full())
