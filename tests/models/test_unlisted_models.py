"""A model of a class that skipkv does not know is tried before it decodes."""

import warnings

import pytest
import torch
from house_model import FavouringAttention, HouseAttention, UnseenAttention, house_model

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
