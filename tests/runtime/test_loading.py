"""Finding models: saved folders, GGUF files, and clear words where there is neither."""

import shutil
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from skipkv.errors import InputError, MissingExtraError
from skipkv.runtime import loading
from skipkv.runtime.loading import load
from skipkv.testing import toy_model, toy_tokenizer


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models") / "toy"
    toy_model("qwen3", layers=1, seed=3).save_pretrained(folder)
    toy_tokenizer().save_pretrained(folder)
    return folder


@pytest.fixture
def copied(saved: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(saved, tmp_path / "toy"))


def test_a_saved_folder_gives_the_model_and_its_tokenizer_ready_to_decode(saved: Path) -> None:
    model, tokenizer = load(str(saved), device="cpu")
    ids = torch.tensor([toy_tokenizer()("so one plus two.\n\n")["input_ids"]])
    assert torch.equal(tokenizer("so one plus two.\n\n", return_tensors="pt")["input_ids"], ids)
    assert torch.equal(model(ids).logits, toy_model("qwen3", layers=1, seed=3)(ids).logits)
    assert not model.training
    assert model.device.type == "cpu"


def test_the_dtype_is_the_checkpoint_s_unless_asked_for(copied: Path) -> None:
    toy_model(layers=1).half().save_pretrained(copied)
    assert load(str(copied), device="cpu")[0].dtype == torch.float16
    assert load(str(copied), dtype=torch.bfloat16, device="cpu")[0].dtype == torch.bfloat16
    assert load(str(copied), dtype="float32", device="cpu")[0].dtype == torch.float32


@pytest.mark.parametrize("name", ["/no/such/model", "./nowhere", "../nowhere", "model.gguf"])
def test_a_path_that_leads_nowhere_is_not_looked_up_on_the_hub(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loading, "AutoTokenizer", None)
    with pytest.raises(InputError, match=r"No model at .*no such file or folder"):
        load(name)


def test_a_folder_without_a_model_says_what_is_missing(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no config\.json and not exactly one \.gguf.*none"):
        load(str(tmp_path))


def test_of_several_gguf_files_one_must_be_named(tmp_path: Path) -> None:
    for name in ("b.gguf", "a.gguf"):
        (tmp_path / name).touch()
    with pytest.raises(InputError, match=r"\(a\.gguf, b\.gguf\)\. Name the file"):
        load(str(tmp_path))


def test_a_file_that_is_no_gguf_file_is_refused(saved: Path) -> None:
    with pytest.raises(InputError, match=r"config\.json is a file.*Give the model's folder"):
        load(str(saved / "config.json"))


@pytest.mark.parametrize("named", ["folder", "file"])
def test_a_gguf_file_without_the_extra_names_the_extra(
    named: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "model.gguf"
    file.touch()
    monkeypatch.setitem(sys.modules, "gguf", None)  # importing it raises ImportError
    with pytest.raises(MissingExtraError, match=r"pip install 'skipkv\[gguf\]'") as caught:
        load(str(tmp_path if named == "folder" else file))
    assert isinstance(caught.value, ImportError)


@pytest.mark.parametrize("named", ["folder", "file"])
@pytest.mark.parametrize(
    ("asked", "given"), [("auto", torch.float32), (torch.bfloat16, torch.bfloat16)]
)
def test_a_gguf_file_is_read_from_its_folder_in_float32_unless_asked(
    named: str, asked: Any, given: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[tuple[str, dict[str, Any]]] = []

    class Reader:
        def __init__(self, result: Any) -> None:
            self._result = result

        def from_pretrained(self, source: str, **options: Any) -> Any:
            calls.append((source, options))
            return self._result

    file = tmp_path / "model.gguf"
    file.touch()
    monkeypatch.setitem(sys.modules, "gguf", object())
    monkeypatch.setitem(sys.modules, "accelerate", object())
    monkeypatch.setattr(loading, "AutoTokenizer", Reader(toy_tokenizer()))
    monkeypatch.setattr(loading, "AutoModelForCausalLM", Reader(toy_model()))
    load(str(tmp_path if named == "folder" else file), dtype=asked, device="cpu")
    assert [source for source, _ in calls] == [str(tmp_path)] * 2
    assert calls[0][1] == {"gguf_file": "model.gguf"}
    assert calls[1][1] == {"gguf_file": "model.gguf", "dtype": given}


def test_a_gguf_file_beside_a_config_is_left_alone(copied: Path) -> None:
    (copied / "model.gguf").touch()
    assert load(str(copied), device="cpu")[0].config.model_type == "qwen3"


@pytest.mark.parametrize(
    ("broken", "content", "message"),
    [
        ("config.json", b"{", "not a valid JSON"),
        ("config.json", b'{"model_type": "unheard-of"}', "unheard-of"),
        ("model.safetensors", b"x" * 100, "header"),
        ("model.safetensors", None, "no file named model.safetensors"),
        ("tokenizer.json", None, ""),
    ],
)
def test_a_folder_that_cannot_be_loaded_is_named_with_the_reason(
    broken: str, content: bytes | None, message: str, copied: Path
) -> None:
    (copied / broken).unlink() if content is None else (copied / broken).write_bytes(content)
    with pytest.raises(
        InputError, match=rf"Cannot load the (tokenizer|model) of '.*toy': .*{message}"
    ) as found:
        load(str(copied))
    assert found.value.__cause__ is not None
    assert broken != "tokenizer.json" or "the tokenizer of" in str(found.value)
    assert "\n" not in str(found.value)


def test_an_error_that_says_nothing_is_passed_on_by_its_name(
    saved: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Silent:
        def from_pretrained(self, source: str, **options: Any) -> Any:
            raise PermissionError

    monkeypatch.setattr(loading, "_tokenizer_class", lambda source: Silent())
    with pytest.raises(InputError, match="PermissionError"):
        load(str(saved))
