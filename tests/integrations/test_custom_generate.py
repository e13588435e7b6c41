"""Folders of `skipkv export`, pipelines and streamers: transformers decodes under a policy."""

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, TextIteratorStreamer, pipeline

import skipkv
from skipkv import Engine, presets, tiny
from skipkv.errors import ConfigError, InputError
from skipkv.integrations.custom_generate import export, last_stats
from skipkv.scorers import WriteGate

GREEDY = {"max_new_tokens": 40, "do_sample": False}


@pytest.fixture(autouse=True)
def cached_modules(tmp_path_factory, monkeypatch) -> None:
    """transformers copies the code of folders to a place of its own."""
    place = str(tmp_path_factory.mktemp("modules"))
    monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", place)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """tiny under skipkv, which reads sentences and steers."""
    place = tmp_path_factory.mktemp("exported") / "model"
    export("tiny", "skipkv:threshold=0.8", place, budget=80)
    return place


def chats() -> list[Any]:
    return [[{"role": "user", "content": problem.question}] for problem in tiny.problems(1)]


def expected() -> list[Any]:
    from skipkv.compositions import model_settings, resolve_policy

    policy = resolve_policy("skipkv:threshold=0.8", budget=80, settings=model_settings("tiny"))
    model, tokenizer = tiny.load(device="cpu")
    return list(Engine(model, tokenizer, policy).generate(chats(), max_new_tokens=40))


def test_the_folders_plain_generate_decodes_under_the_policy(folder):
    model = AutoModelForCausalLM.from_pretrained(folder, trust_remote_code=True)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    for chat, done in zip(chats(), expected(), strict=True):
        inputs = tokenizer.apply_chat_template(
            chat, add_generation_prompt=True, return_tensors="pt", return_dict=True
        )
        output = model.generate(**inputs, **GREEDY)
        assert output[0, done.prompt_tokens :].tolist() == list(done.tokens)
        [stats] = last_stats(model)
        assert (stats.evicted, stats.peak_entries) == (done.stats.evicted, 80 + 16)
    positional = model.generate(inputs["input_ids"], **GREEDY)
    assert torch.equal(positional, output)
    with pytest.raises(InputError, match="use_cache=False"):
        model.generate(**inputs, use_cache=False, **GREEDY)
    with pytest.raises(InputError, match="its last generation failed"):
        last_stats(model)  # and not those of the generation before


def test_another_copy_of_the_model_takes_the_code_by_the_folders_name(folder):
    model, tokenizer = tiny.load(device="cpu")
    ids = tokenizer.apply_chat_template(
        chats()[0], add_generation_prompt=True, return_tensors="pt", return_dict=True
    )["input_ids"]
    options = {"custom_generate": str(folder), "trust_remote_code": True, "tokenizer": tokenizer}
    model.generate(ids, **options, **GREEDY)
    assert last_stats(model)[0].peak_entries == 80 + 16


def test_a_model_loaded_without_trust_says_that_no_policy_was_there(folder):
    model = AutoModelForCausalLM.from_pretrained(folder)
    with pytest.raises(InputError, match="trust_remote_code=True"):
        last_stats(model)


@pytest.mark.slow
def test_a_pipeline_decodes_under_the_policy_of_a_folder(folder):
    texts = [done.text for done in expected()]
    made = pipeline("text-generation", model=str(folder), trust_remote_code=True)
    for chat, text in zip(chats(), texts, strict=True):
        [reply] = made(chat, generation_config=None, **GREEDY)
        assert reply["generated_text"][-1]["content"] == text
    assert last_stats(made.model)[0].peak_entries == 80 + 16


def test_a_pipeline_decodes_under_the_policy_of_attach():
    model, tokenizer = tiny.load(device="cpu")
    policy = presets.rkv(budget=80, interval=16)
    plain = pipeline("text-generation", model=model, tokenizer=tokenizer)
    with skipkv.attach(model, policy) as attached:
        [reply] = plain(chats()[0], **GREEDY)
        assert attached.peak_entries == [80 + 16]
    [done] = Engine(model, tokenizer, policy).generate(chats()[:1], max_new_tokens=40)
    assert reply["generated_text"][-1]["content"] == done.text


def test_a_streamer_of_transformers_gives_the_text_under_attach():
    model, tokenizer = tiny.load(device="cpu")
    policy = presets.rkv(budget=80, interval=16)
    [done] = Engine(model, tokenizer, policy).generate(chats()[:1], max_new_tokens=40)
    inputs = tokenizer.apply_chat_template(
        chats()[0], add_generation_prompt=True, return_tensors="pt", return_dict=True
    )
    streamer = TextIteratorStreamer(tokenizer, skip_prompt=True, skip_special_tokens=True)
    with skipkv.attach(model, policy):
        model.generate(**inputs, streamer=streamer, **GREEDY)
    pieces = list(streamer)
    assert len(pieces) > 5
    assert "".join(pieces) == done.text


def test_stop_strings_end_generate_under_attach():
    model, tokenizer = tiny.load(device="cpu")
    inputs = tokenizer.apply_chat_template(
        chats()[0], add_generation_prompt=True, return_tensors="pt", return_dict=True
    )
    with skipkv.attach(model, presets.rkv(budget=64, interval=16)):
        output = model.generate(**inputs, stop_strings=["so"], tokenizer=tokenizer, **GREEDY)
    assert tokenizer.decode(output[0, inputs["input_ids"].shape[1] :]).count("so") == 1


def test_what_cannot_be_exported_is_refused_before_anything_is_written(tmp_path):
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "notes.txt").write_text("mine")
    with pytest.raises(InputError, match="is there already"):
        export("tiny", "full", tmp_path / "full")
    for policy, part in (
        ("rkv:budgte=5", "takes no budgte"),
        ("nonsense", "No preset is called"),
        ("streaming_llm:budget=3", "must exceed"),
    ):
        with pytest.raises(ConfigError, match=part):
            export("tiny", policy, tmp_path / "new")
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("name", ["trimkv", "triattention"])
def test_a_folder_holds_the_learned_numbers_of_its_policy(name, tmp_path, monkeypatch):
    """It named files of the machine on which it was written."""
    weights = Path(tiny.__file__).parent / "weights"
    option, file = {
        "trimkv": ("gate", "trimkv.safetensors"),
        "triattention": ("queries", "queries.safetensors"),
    }[name]
    (tmp_path / "own.safetensors").write_bytes((weights / file).read_bytes())
    monkeypatch.chdir(tmp_path)
    policy = presets.get(name)(90, **{option: weights / file})
    place = tmp_path / "model"
    export("tiny", f"{name}:{option}=own.safetensors", place, budget=90, published=True)
    (tmp_path / "own.safetensors").unlink()
    monkeypatch.chdir(place)
    code = (place / "custom_generate" / "generate.py").read_text()
    assert str(tmp_path) not in code
    made: dict[str, Any] = {}
    exec(code, made)  # as transformers does
    assert made["POLICY"] == policy


def test_a_file_that_is_too_large_for_the_code_is_refused(tmp_path):
    gate = WriteGate(outer=torch.zeros(3, 2**20, 3), outer_bias=torch.zeros(3, 3))
    gate.save(tmp_path / "gate.safetensors")
    policy = f"trimkv:gate={tmp_path / 'gate.safetensors'}"
    with pytest.raises(InputError, match=r"gate.safetensors has 36 MB.*32 MB at most"):
        export("tiny", policy, tmp_path / "model", budget=90)
    assert not (tmp_path / "model").exists()


def test_the_code_alone_is_small(tmp_path, run):
    result = run("export", "tiny", "skipkv", tmp_path / "code", "--code-only")
    assert result.exit_code == 0, result.output
    files = sorted(path.name for path in (tmp_path / "code").rglob("*") if path.is_file())
    assert files == ["generate.py", "requirements.txt"]
    assert (tmp_path / "code" / "custom_generate" / "generate.py").stat().st_size < 10_000
