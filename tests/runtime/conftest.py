"""What tests of both frontends decode: a toy model, its tokenizer, and a batch of prompts."""

import pytest
from torch import Tensor
from toy_prompts import PROMPTS
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from skipkv.testing import toy_model, toy_tokenizer


@pytest.fixture
def model() -> PreTrainedModel:
    return toy_model()


@pytest.fixture
def tokenizer() -> PreTrainedTokenizerFast:
    return toy_tokenizer()


@pytest.fixture
def batch(tokenizer: PreTrainedTokenizerFast) -> dict[str, Tensor]:
    """`PROMPTS` as `model.generate()` takes them, padded on the left."""
    encoded = tokenizer(PROMPTS, return_tensors="pt", padding=True)
    return {name: encoded[name] for name in ("input_ids", "attention_mask")}
