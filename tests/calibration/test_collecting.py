"""Traces, the thoughts in them and their hidden states, on the toy model."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from skipkv import Engine, Policy
from skipkv._runs import LineFile, RunFolder
from skipkv._types import Thought
from skipkv.calibration import Settings, Trace, collect, run
from skipkv.calibration.openings import openings
from skipkv.calibration.traces import read_completions
from skipkv.errors import ConfigError, InputError
from skipkv.runtime.seam.hidden import layer_inputs
from skipkv.runtime.text.marks import Marks
from skipkv.runtime.text.thinking import TAGS
from skipkv.runtime.text.token_text import TokenText
from skipkv.segmenters import MarkerWords
from skipkv.steerers import calibrate
from skipkv.testing import toy_model, toy_tokenizer
from skipkv.testing.fakes import VOCABULARY

TOKENIZER = toy_tokenizer()
TEXT = TokenText(TOKENIZER)
MARKS = Marks(TEXT, len(VOCABULARY), TAGS)


def trace(prompt: str, written: str, *, finished: bool = True) -> Trace:
    ids = [TOKENIZER(t, add_special_tokens=False)["input_ids"] for t in (prompt, written)]
    return Trace(index=0, prompt=ids[0], tokens=ids[1], finished=finished)


def opened(found: Trace) -> list[tuple[int, str, str]]:
    thoughts = openings(found, marks=MARKS, text=TEXT, classify=MarkerWords())
    ids = [*found.prompt, *found.tokens]
    assert all("\n\n" in TEXT[ids[o.position]] for o in thoughts)
    return [(o.position, o.text, o.kind.name) for o in thoughts]


def test_a_thought_opens_where_a_paragraph_ends_inside_the_think_block() -> None:
    written = "one is two.\n\nwait \nnow\n\nalternatively</think>\n\nso"
    assert opened(trace("sum.\n\n<think>", written)) == [
        (8, "wait \nnow\n\n", "REFLECTION"),
        (13, "alternatively", "TRANSITION"),
    ]


def test_a_prompt_that_ends_a_paragraph_opens_the_first_thought() -> None:
    assert opened(trace("one\n\n<think>\n\n", "so\n\n")) == [(3, "so\n\n", "EXECUTION")]


def test_a_thought_that_was_cut_short_is_left_out() -> None:
    written = "one\n\nwait two"
    assert opened(trace("<think>", written)) == [(2, "wait two", "REFLECTION")]
    assert opened(trace("<think>", written, finished=False)) == []
    assert opened(trace("", "one\n\nwait")) == []  # it does not think


def test_the_states_are_what_enters_the_layers() -> None:
    model = toy_model(layers=3)
    ids = [5, 60, 7, 61, 9]
    with torch.inference_mode():
        outputs = model(torch.tensor([ids]), output_hidden_states=True).hidden_states
    states = layer_inputs(model, ids, [1, 3], [0, 2])
    expected = torch.stack([outputs[0][0, [1, 3]], outputs[2][0, [1, 3]]], dim=1)
    assert torch.allclose(states, expected, atol=1e-5)
    assert not any(layer._forward_pre_hooks for layer in model.base_model.layers)
    assert layer_inputs(model, ids, [], [0, 2]).shape == (0, 2, 64)


def by_length(text: str) -> Thought:
    """The toy says nothing that means anything; this gives it thoughts of all kinds."""
    return Thought(len(text) % 3)


PROMPTS = [[3, 7 + i % 5, 60 + i] for i in range(8)]
SETTINGS = Settings(max_new_tokens=60, temperature=1.0, seed=3)


def engine() -> Engine:
    model = toy_model(layers=2, eos=False)
    with torch.no_grad():
        model.lm_head.weight[8:12] *= 1.5  # paragraph ends
        model.lm_head.weight[4] = 0  # never </think>
    return Engine(model, TOKENIZER, Policy(), batch_size=3)


def collected(folder: Path, settings: Settings = SETTINGS, **options: Any) -> list[Any]:
    options = {"classify": by_length, "progress": False, **options}
    states = collect(engine(), PROMPTS, folder=folder, settings=settings, **options)
    return [(s.question, s.states.tolist(), s.kinds.tolist(), s.agreement) for s in states]


class Stop(BaseException):
    """As if the process was killed."""


def stopping(function: Any, after: int) -> Any:
    calls = []

    def stopped(*args: Any, **kwargs: Any) -> Any:
        calls.append(1)
        if len(calls) > after:
            raise Stop
        return function(*args, **kwargs)

    return stopped


def test_a_run_that_was_killed_goes_on_and_gives_what_it_would_have_given(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = collected(tmp_path / "whole")
    assert sum(len(kinds) for _, _, kinds, _ in whole) > 10
    folder = tmp_path / "killed"
    with monkeypatch.context() as patch:
        patch.setattr(LineFile, "add", stopping(LineFile.add, after=3))
        with pytest.raises(Stop):
            collected(folder)
    lines = (folder / "traces.jsonl").read_text()
    assert lines.count("\n") == 3
    (folder / "traces.jsonl").write_text(lines + '{"index": 7, "prompt": [3')  # half a line
    with monkeypatch.context() as patch:
        patch.setattr(run, "layer_inputs", stopping(layer_inputs, after=2))
        with pytest.raises(Stop):
            collected(folder)
    # all traces are there: none is generated again, nor the states of the first two
    monkeypatch.setattr(LineFile, "add", stopping(LineFile.add, after=0))
    monkeypatch.setattr(run, "layer_inputs", stopping(layer_inputs, after=6))
    assert collected(folder) == whole
    monkeypatch.setattr(run, "layer_inputs", stopping(layer_inputs, after=0))
    assert collected(folder) == whole


def test_states_make_a_vector(tmp_path: Path) -> None:
    states = collect(
        engine(), PROMPTS, folder=tmp_path, settings=SETTINGS, classify=by_length, progress=False
    )
    found = calibrate(states, layers=[0, 1])
    assert found.layer in (0, 1)
    assert found.vector.shape == (64,)
    total = sum(len(s.kinds) for s in states)
    assert sum(found.counts) + sum(found.held_out_counts) == total


@pytest.mark.slow
def test_agreement_is_the_share_of_regenerations_of_the_same_kind(tmp_path: Path) -> None:
    settings = Settings(
        max_new_tokens=30, temperature=1.0, seed=3, regenerations=4, regenerated_tokens=12
    )
    first = collected(tmp_path / "a", settings)
    shares = [x for _, _, _, agreed in first for x in agreed.tolist()]
    assert {round(x, 4) for x in shares} <= {0.0, 0.25, 0.5, 0.75, 1.0}
    assert len(set(shares)) > 1
    always = collected(tmp_path / "b", settings, classify=lambda text: Thought.EXECUTION)
    assert max(x for _, _, _, agreed in always for x in agreed.tolist()) == 1.0
    assert [a.tolist() for *_, a in collected(tmp_path / "c", settings)] == [
        a.tolist() for *_, a in first
    ]


def test_traces_that_are_there_are_read_and_none_generated(tmp_path: Path) -> None:
    written = "one is two.\n\nwait now\n\nso</think>"
    found = collected(tmp_path, completions=[(written, True)] * 8, classify=MarkerWords())
    assert [kinds for _, _, kinds, _ in found] == [[1, 0]] * 8
    with pytest.raises(InputError, match=r"8 prompts, 2 traces"):
        collected(tmp_path, completions=[(written, True)] * 2)


def test_a_folder_of_other_settings_is_refused(tmp_path: Path) -> None:
    collected(tmp_path, Settings(max_new_tokens=5))
    with pytest.raises(InputError, match=r"max_new_tokens was 5 and is 6; seed was 0 and is 1"):
        collected(tmp_path, Settings(max_new_tokens=6, seed=1))
    with pytest.raises(InputError, match="thoughts: it was <function by_len"):
        collected(tmp_path, Settings(max_new_tokens=5), classify=MarkerWords())


def test_a_folder_of_other_weights_is_refused(tmp_path: Path) -> None:
    settings = Settings(max_new_tokens=5, model="a folder in which the model was exchanged")
    options = {"folder": tmp_path, "settings": settings, "progress": False}
    collect(engine(), PROMPTS, classify=by_length, **options)
    tuned = engine()
    with torch.no_grad():
        tuned.model.lm_head.weight[0] += 1
    with pytest.raises(InputError, match="the weights differ"):
        collect(tuned, PROMPTS, classify=by_length, **options)


def test_a_layer_the_model_does_not_have_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"names layer 2, but the model's layers are 0 to 1"):
        collected(tmp_path, Settings(layers=(1, 2)))


@pytest.mark.parametrize("line", ['{"index": 0}', '{"index": 0, "prompt": "ab", "tokens": []}'])
def test_a_damaged_line_of_traces_is_named(line: str, tmp_path: Path) -> None:
    collected(tmp_path, Settings(max_new_tokens=5))
    (tmp_path / "traces.jsonl").write_text(f"{line}\n")
    with pytest.raises(InputError, match=r"traces\.jsonl:1 is not a record"):
        collected(tmp_path, Settings(max_new_tokens=5))


def test_two_calibrations_do_not_share_a_folder(tmp_path: Path) -> None:
    pytest.importorskip("fcntl")
    with (
        RunFolder(tmp_path, "calibrate").locked(),
        pytest.raises(InputError, match="is in use by another run"),
    ):
        collected(tmp_path)


def test_completions_are_read_from_what_generate_prints(tmp_path: Path) -> None:
    path = tmp_path / "c.jsonl"
    lines = [{"text": "a", "stop_reason": "eos"}, {"text": "b", "stop_reason": "length"}]
    path.write_text("\n\n".join(map(json.dumps, lines)) + "\n")
    assert read_completions(str(path)) == [("a", True), ("b", False)]
    with pytest.raises(InputError, match=r"c\.jsonl:1: must be an object.*'trace'"):
        read_completions(str(path), text="trace")
    with pytest.raises(InputError, match="Cannot read the traces"):
        read_completions(str(tmp_path / "none"))
