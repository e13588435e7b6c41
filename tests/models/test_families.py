"""Every family that is named as supported decodes as transformers' own `generate()` does."""

import warnings
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from family_checks import CHECKS, PAGE, with_tables
from family_list import (
    NEW,
    PROMPTS,
    REFUSED,
    SETTINGS,
    SIZES,
    TOKENIZER,
    config_of,
    generated,
    model_of,
)
from transformers import AutoConfig, PreTrainedModel

import skipkv
from skipkv import Engine, presets
from skipkv.errors import SkipKVWarning, UnsupportedModelError
from skipkv.models import FAMILIES, load
from skipkv.models.architecture import STATE_LAYER, Architecture

model_in = cache(lambda family: model_of(config_of(family)))


# A few families of unlike kinds are enough to see a fault of recorded steps in seconds.
QUICK = ("llama", "gpt_oss", "qwen3_next", "falcon_h1")
CELLS = [
    pytest.param(column, family, marks=[pytest.mark.slow] * slow)
    for column in CHECKS
    for family in SETTINGS
    for slow in [column == "graph" and family not in QUICK]
]


@pytest.mark.parametrize(("column", "family"), CELLS)
def test_a_family_decodes_as_transformers_does(column: str, family: str) -> None:
    """Every cell of the table in docs/models.md."""
    model: PreTrainedModel = model_in(family)
    with warnings.catch_warnings():
        warnings.simplefilter("error", SkipKVWarning)
        CHECKS[column](model)


def test_the_page_has_the_tables_that_these_tests_prove() -> None:
    assert (*SETTINGS,) == FAMILIES
    if STATE_LAYER is None:
        pytest.skip("this transformers lacks some of the families")
    page = PAGE.read_text()
    assert page == with_tables(page), "make family-tables"


@pytest.mark.parametrize("family", ["gemma2", "gpt_oss"])
def test_soft_caps_and_sinks_are_part_of_every_way_to_attend(family: str) -> None:
    model = model_of(config_of(family, layer_types=["full_attention"] * 2))
    policies = [presets.full(), presets.h2o(64, interval=8), presets.snapkv(64, interval=8)]
    for policy in policies:  # they keep all
        engine = Engine(model, TOKENIZER, policy)
        found = [c.tokens for c in engine.generate(PROMPTS, max_new_tokens=NEW)]
        assert found == [tuple(generated(model, [prompt])[0].tolist()) for prompt in PROMPTS]


def test_a_model_that_also_sees_decodes_text_like_its_text_model() -> None:
    vision = {"image_size": 16, "patch_size": 8, "num_attention_heads": 2, "num_hidden_layers": 2}
    config = AutoConfig.for_model(
        "gemma3",
        text_config={**SIZES, **SETTINGS["gemma3_text"]},
        vision_config={**vision, "hidden_size": 16, "intermediate_size": 16},
        mm_tokens_per_image=4,
    )
    model = model_of(config)
    for check in CHECKS.values():
        check(model)
    assert "(2 layers" in repr(Engine(model, TOKENIZER, presets.full()))


@pytest.mark.parametrize("family", REFUSED)
def test_what_a_cache_of_keys_and_values_cannot_hold_is_refused_by_its_config(
    family: str, tmp_path: Path
) -> None:
    refusal = REFUSED[family]
    try:
        config = AutoConfig.for_model(family, num_hidden_layers=2, **refusal.settings)
    except ValueError:
        pytest.skip(f"this transformers has no {family}")
    with pytest.raises(UnsupportedModelError, match=refusal.why):
        Architecture.of(config)
    config.save_pretrained(tmp_path)
    with pytest.raises(UnsupportedModelError, match=refusal.why):  # before there are any weights
        load(tmp_path)


def test_a_window_longer_than_the_models_positions_holds_until_it_would_take_effect() -> None:
    model = model_of(config_of("phi3", sliding_window=32, max_position_embeddings=32))
    assert Architecture.of(model.config).horizon == 32
    for tokens, refused in ((32, False), (33, True)):
        ids = torch.arange(5, 5 + tokens)[None]
        with skipkv.attach(model, presets.full()):
            if not refused:
                model.generate(ids, max_new_tokens=1)
                continue
            with pytest.raises(UnsupportedModelError, match="sliding window of 32 tokens"):
                model.generate(ids, max_new_tokens=1)


@pytest.mark.parametrize(
    ("keyword", "message"),
    [
        ({"position_bias": torch.zeros(1)}, "'position_bias'"),
        ({"head_mask": torch.ones(4)}, "'head_mask'"),
        ({"sliding_window": 8}, "called with a sliding window"),
        ({"is_causal": False}, "tokens that come later"),
        ({"an_invention": 3}, "'an_invention'"),
    ],
)
def test_attention_with_a_keyword_that_is_not_honoured_is_an_error(
    keyword: dict[str, Any], message: str
) -> None:
    model = model_of(config_of("llama"))
    # Keywords of a forward pass reach the attention function.
    with (
        skipkv.attach(model, presets.full()),
        pytest.raises(UnsupportedModelError, match=message),
    ):
        model(input_ids=torch.tensor([PROMPTS[0]]), use_cache=True, logits_to_keep=1, **keyword)


def test_attention_with_dropout_is_an_error() -> None:
    model = model_of(config_of("llama", attention_dropout=0.5)).train()
    with (
        skipkv.attach(model, presets.full()),
        pytest.raises(UnsupportedModelError, match=r"Call model\.eval\(\)"),
    ):
        generated(model, PROMPTS)
