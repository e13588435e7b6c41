"""`check_model`: what it says of models that decode under skipkv, and of those that do not."""

import pytest
import torch
from house_model import FavouringAttention, HouseAttention, house_model
from transformers import PreTrainedModel

from skipkv.errors import InputError, UnsupportedModelError
from skipkv.testing import ModelReport, check_model, toy_model, toy_tokenizer


def verdicts(report: ModelReport) -> list[str]:
    return [finding.verdict for finding in report.findings]


@pytest.mark.parametrize(
    "model", [toy_model(), toy_model("qwen3", eos=True), house_model(HouseAttention)]
)
def test_a_model_that_decodes_the_same_passes_everything_but_recording(
    model: PreTrainedModel,
) -> None:
    report = check_model(model, toy_tokenizer())
    assert report.passed
    assert verdicts(report) == ["same"] * 8 + ["skipped"]
    shown = str(report).splitlines()
    assert shown[0] == f"{type(model).__name__} ({model.config.model_type}, torch.float32 on cpu)"
    assert shown[-1] == "Under skipkv the model decodes as it does by itself."


def test_a_model_that_differs_fails_with_how_much() -> None:
    report = check_model(house_model(FavouringAttention), toy_tokenizer())
    assert not report.passed
    assert verdicts(report) == ["differs"]
    assert "of their norm" in report.findings[0].detail
    assert "does not decode" in str(report)


def test_layers_with_a_window_are_compared_like_any_other() -> None:
    report = check_model(toy_model("qwen2", sliding_window=8), toy_tokenizer())
    assert set(verdicts(report)[:-1]) == {"same"}
    assert "no GPU" in report.findings[-1].detail or report.findings[-1].verdict == "same"


def test_hidden_states_that_a_model_changes_after_its_hooks_are_found() -> None:
    model = toy_model()
    # as a hook that another library puts before ours, on the way into the last layer
    model.model.layers[-1].register_forward_pre_hook(
        lambda module, args, kwargs: ((args[0] + 1, *args[1:]), kwargs), with_kwargs=True
    )
    report = check_model(model, toy_tokenizer())
    [found] = [f for f in report.findings if f.verdict == "differs"]
    assert found.name.startswith("hidden states")


def test_what_cannot_be_decoded_at_all_is_an_error() -> None:
    model = toy_model("qwen2")
    model.config.layer_types = ["chunked_attention"] * 2
    with pytest.raises(UnsupportedModelError, match="chunked_attention"):
        check_model(model, toy_tokenizer())
    with pytest.raises(InputError, match="check_model got Linear"):
        check_model(torch.nn.Linear(2, 2))
