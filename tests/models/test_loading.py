"""Finding models: saved folders, GGUF files, and clear words where there is neither."""

import json
import os
import re
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, pre_tokenizers
from transformers.utils import logging
from typer.testing import CliRunner

from skipkv.cli.app import app
from skipkv.errors import InputError, MissingExtraError, SkipKVWarning
from skipkv.models import load
from skipkv.models.loading import EMBEDDED
from skipkv.testing import toy_model, toy_tokenizer


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models") / "toy"
    toy_model("qwen3", seed=3).save_pretrained(folder)
    toy_tokenizer().save_pretrained(folder)
    return folder


@pytest.fixture
def copied(saved: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(saved, tmp_path / "toy"))


def test_a_saved_folder_gives_the_model_and_its_tokenizer_ready_to_decode(saved: Path) -> None:
    model, tokenizer = load(str(saved), device="cpu")
    ids = torch.tensor([toy_tokenizer()("so one plus two.\n\n")["input_ids"]])
    assert torch.equal(tokenizer("so one plus two.\n\n", return_tensors="pt")["input_ids"], ids)
    assert torch.equal(model(ids).logits, toy_model("qwen3", seed=3)(ids).logits)
    assert not model.training
    assert model.device.type == "cpu"


def test_the_dtype_is_the_checkpoint_s_unless_asked_for(copied: Path) -> None:
    toy_model(layers=1).half().save_pretrained(copied)
    assert load(str(copied), device="cpu")[0].dtype == torch.float16
    assert load(str(copied), dtype=torch.bfloat16, device="cpu")[0].dtype == torch.bfloat16
    assert load(str(copied), dtype="float32", device="cpu")[0].dtype == torch.float32


@pytest.mark.parametrize("name", ["/no/such/model", "./nowhere", "../nowhere", "model.gguf"])
def test_a_path_that_leads_nowhere_is_not_looked_up_on_the_hub(name: str) -> None:
    with pytest.raises(InputError, match=r"No model at .*no such file or folder"):
        load(name)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("", "name is empty"),
        ("a" * 5000, "Cannot load the config"),
        (Path("tiny"), r"No model at '\./tiny'"),
    ],
)
def test_what_names_no_model_is_refused(name: str | Path, message: str) -> None:
    with pytest.raises(InputError, match=message):
        load(name, device="cpu")


def test_a_path_names_a_model_too(saved: Path) -> None:
    assert load(saved, device="cpu")[0].config.model_type == "qwen3"


@pytest.mark.parametrize("content", ["{", "[]"])
def test_a_generation_config_that_cannot_be_read_is_not_left_out(
    content: str, copied: Path
) -> None:
    (copied / "generation_config.json").write_text(content)
    with pytest.raises(InputError, match="Cannot load the generation config of"):
        load(str(copied), device="cpu")


def test_a_folder_without_a_model_says_what_is_missing(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no config\.json and not exactly one \.gguf.*none"):
        load(str(tmp_path))


def test_of_several_gguf_files_one_must_be_named(tmp_path: Path) -> None:
    for name in ("b.gguf", "a.gguf"):
        (tmp_path / name).touch()
    with pytest.raises(InputError, match=r"it has a\.gguf, b\.gguf\)\. Give the path"):
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


@pytest.fixture(scope="module")
def gguf_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A GGUF file of a small random model, in float16."""
    gguf = pytest.importorskip("gguf", reason="needs the extra gguf")
    pytest.importorskip("accelerate", reason="needs the extra gguf")
    path = tmp_path_factory.mktemp("gguf") / "model.gguf"
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_block_count(1)
    writer.add_context_length(512)
    writer.add_embedding_length(32)
    writer.add_feed_forward_length(64)
    writer.add_head_count(4)
    writer.add_head_count_kv(2)
    writer.add_layer_norm_rms_eps(1e-6)
    writer.add_rope_freq_base(10000.0)
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list([*letters, "aa", "bb", "<|end|>"])
    writer.add_token_merges(["a a", "b b"])
    writer.add_bos_token_id(len(letters) + 2)
    writer.add_eos_token_id(len(letters) + 2)
    sizes = {"token_embd": (len(letters) + 3, 32), "output": (len(letters) + 3, 32)}
    block = {"attn_q": (32, 32), "attn_k": (16, 32), "attn_v": (16, 32), "attn_output": (32, 32)}
    block |= {"ffn_up": (64, 32), "ffn_gate": (64, 32), "ffn_down": (32, 64)}
    sizes |= {f"blk.0.{name}": size for name, size in block.items()}
    sizes |= dict.fromkeys(("output_norm", "blk.0.attn_norm", "blk.0.ffn_norm"), (32,))
    draw = np.random.default_rng(0)
    for name, size in sizes.items():
        kind = np.float32 if len(size) == 1 else np.float16
        writer.add_tensor(f"{name}.weight", draw.normal(size=size).astype(kind))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


@pytest.mark.parametrize("name", list(EMBEDDED))
def test_an_embedded_model_is_read_in_float32_unless_asked(name: str) -> None:
    assert load(name, device="cpu")[0].dtype == torch.float32
    assert load(name, dtype="bfloat16", device="cpu")[0].dtype == torch.bfloat16


@pytest.mark.parametrize("named", ["folder", "file"])
def test_a_gguf_file_is_read_in_float32_unless_asked(named: str, gguf_file: Path) -> None:
    name = str(gguf_file.parent if named == "folder" else gguf_file)
    model, tokenizer = load(name, device="cpu")
    assert model.dtype == torch.float32
    assert tokenizer.decode(tokenizer("aab")["input_ids"]) == "aab"
    assert load(name, dtype="bfloat16", device="cpu")[0].dtype == torch.bfloat16


@pytest.mark.parametrize("share", [0.02, 0.5, 0.97])
def test_a_part_of_a_gguf_file_is_refused(share: float, gguf_file: Path, tmp_path: Path) -> None:
    part = tmp_path / "part.gguf"
    whole = gguf_file.read_bytes()
    part.write_bytes(whole[: int(share * len(whole))])
    with pytest.raises(InputError, match=r"Cannot load the .* of .*part\.gguf"):
        load(str(part), device="cpu")


def test_a_gguf_file_beside_a_config_is_left_alone(copied: Path) -> None:
    (copied / "model.gguf").touch()
    assert load(str(copied), device="cpu")[0].config.model_type == "qwen3"


def of_config(folder: Path, **changes: Any) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def of_tensors(folder: Path, change: Callable[[dict[str, Any]], dict[str, Any]]) -> None:
    path = folder / "model.safetensors"
    save_file(change(load_file(path)), path, metadata={"format": "pt"})


def pickled(folder: Path, held: Any) -> None:
    (folder / "model.safetensors").unlink()
    torch.save(held, folder / "pytorch_model.bin")


class Harm:
    """Unpickled, it would make a folder."""

    def __reduce__(self) -> Any:
        return os.mkdir, ("harmed",)


def without_tokenizer(folder: Path) -> None:
    for path in folder.glob("*token*"):
        path.unlink()


BROKEN: dict[str, tuple[Callable[[Path], Any], str]] = {
    "no JSON": (lambda f: (f / "config.json").write_text("{"), "config of .* not a valid JSON"),
    "another architecture": (
        lambda f: of_config(f, model_type="unheard-of", auto_map={"AutoConfig": "harm.Config"}),
        "Models of type 'unheard-of' are not supported.*no causal language model",
    ),
    "no architecture": (lambda f: of_config(f, model_type=None), "Models of type None"),
    "a list": (lambda f: (f / "config.json").write_text("[]"), "config of"),
    "a size that is a word": (
        lambda f: of_config(f, hidden_size="many"),
        "hidden_size='many' must be a whole number",
    ),
    "no heads": (lambda f: of_config(f, num_attention_heads=0), "num_attention_heads=0 must be"),
    "too many layers": (
        lambda f: of_config(f, num_hidden_layers=3),
        "model of .*num_hidden_layers.*3.*layer",
    ),
    "too few layers": (
        lambda f: of_config(f, num_hidden_layers=1, layer_types=["full_attention"]),
        r"model of .*\d+ have no place in the model that config.json describes \(model.layers.1",
    ),
    "missing tensors": (
        lambda f: of_tensors(f, lambda t: {k: v for k, v in t.items() if "layers.1" not in k}),
        r"model of .*: 11 tensors are missing and would be random .model.layers.1.input.*, \.\.\.",
    ),
    "renamed tensors": (
        lambda f: of_tensors(f, lambda t: {k.replace("q_proj", "qq"): v for k, v in t.items()}),
        "2 tensors are missing .*q_proj.*; 2 have no place .*qq",
    ),
    "larger tensors": (
        lambda f: of_tensors(f, lambda t: {k: torch.cat([v, v]) for k, v in t.items()}),
        "have another size than config.json says .*lm_head",
    ),
    "half a file": (
        lambda f: os.truncate(f / "model.safetensors", 2**15),
        "Cannot load the model of .*(incomplete|Incomplete)",
    ),
    "no weights": (lambda f: (f / "model.safetensors").unlink(), "no file named model.safetensors"),
    "no index": (
        lambda f: (f / "model.safetensors").rename(f / "model.safetensors.index.json"),
        "Cannot load the model of",
    ),
    "weights that run code": (
        lambda f: pickled(f, {"a": Harm()}),
        "pickled with more than tensors",
    ),
    "no file of a tokenizer": (without_tokenizer, "tokenizer of .*: its vocabulary is empty"),
    "no vocabulary": (lambda f: (f / "tokenizer.json").unlink(), "Cannot load the tokenizer of"),
    "an empty vocabulary": (lambda f: (f / "tokenizer.json").write_text("{}"), "tokenizer of"),
    "a list for a tokenizer": (
        lambda f: (f / "tokenizer_config.json").write_text("[]"),
        "Cannot load the tokenizer of",
    ),
    "a malformed template": (
        lambda f: (f / "chat_template.jinja").write_text("{{ 1 }}\n{% for x %}"),
        "tokenizer of .*its chat template is malformed, line 2: .*chat_template.jinja",
    ),
    "an adapter": (
        lambda f: (f / "adapter_config.json").write_text('{"base_model_name_or_path": "b"}'),
        "adapter .LoRA. of 'b', not a whole model. Merge the two with peft",
    ),
}


@pytest.mark.parametrize("case", BROKEN)
def test_a_folder_that_is_not_a_whole_model_ends_the_command_with_one_line(
    case: str, copied: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(copied.parent)
    spoil, message = BROKEN[case]
    spoil(copied)
    command = ["generate", "--model", str(copied), "--policy", "full", "--device", "cpu", "so"]
    result = CliRunner().invoke(app, command, input="y\n")
    printed = result.stderr + capfd.readouterr().err
    assert (result.exit_code, result.stdout) == (2, "")
    assert printed.count("\n") == 1, printed
    assert re.search(f"skipkv: error: .*{message}", printed), printed
    assert not Path("harmed").exists()


def test_an_adapter_alone_is_named_as_one(tmp_path: Path) -> None:
    (tmp_path / "adapter_config.json").write_text("{}")
    with pytest.raises(InputError, match=r"adapter \(LoRA\)"):
        load(str(tmp_path))


def test_tied_weights_are_not_missing(copied: Path) -> None:
    model = toy_model(layers=1)
    model.config.tie_word_embeddings = True
    model.tie_weights()
    model.save_pretrained(copied)
    assert "lm_head.weight" not in load_file(copied / "model.safetensors")
    loaded, _ = load(str(copied), device="cpu")
    assert torch.equal(loaded.lm_head.weight, model.model.embed_tokens.weight)


CODE = """
from pathlib import Path
from transformers import {0}
Path(__file__).with_name("ran").touch()  # where transformers keeps its copy
class Own({0}):
    own = True
"""


@pytest.mark.parametrize("trusted", [False, True])
def test_code_that_comes_with_a_model_runs_where_it_is_trusted_and_is_not_asked_about(
    trusted: bool, copied: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(tmp_path / "x"))
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setattr("builtins.input", lambda *_: pytest.fail("asked on the terminal"))
    (copied / "tokens.py").write_text(CODE.format("PreTrainedTokenizerFast"))
    path = copied / "tokenizer_config.json"
    declared = {**json.loads(path.read_text()), "auto_map": {"AutoTokenizer": [None, "tokens.Own"]}}
    path.write_text(json.dumps(declared))
    _, tokenizer = load(str(copied), device="cpu", trust_remote_code=trusted)
    assert getattr(tokenizer, "own", False) == trusted


@pytest.mark.parametrize("device", ["toaster", "cuda:99", "meta", "xla", "cpu:x"])
def test_a_device_that_is_not_there_is_refused_before_anything_is_loaded(device: str) -> None:
    with pytest.raises(InputError, match=f"device {device}"):
        load("./nowhere", device=device)


@pytest.mark.parametrize("dtype", ["float99", "int8", "nn"])
def test_a_dtype_that_holds_no_weights_is_refused(dtype: str) -> None:
    with pytest.raises(InputError, match=f"dtype {dtype} is not a torch dtype"):
        load("tiny", dtype=dtype)


@pytest.mark.parametrize(
    ("family", "declared"),
    [("qwen2", "LlamaTokenizerFast"), ("qwen2", None), ("llama", "Qwen2Tokenizer")],
)
def test_a_tokenizer_is_read_as_its_file_says_whatever_class_is_declared(
    family: Any, declared: str | None, tmp_path: Path
) -> None:
    """R1-Distill's folders name Llama's tokenizer beside a Qwen2 model."""
    toy_model(family, layers=1).save_pretrained(tmp_path)
    toy_tokenizer().save_pretrained(tmp_path)
    path = tmp_path / "tokenizer_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "tokenizer_class": declared}))
    text = "so one plus two.\n\nwait 12+3"
    truth = Tokenizer.from_file(str(tmp_path / "tokenizer.json")).encode(text).ids
    _, tokenizer = load(str(tmp_path), device="cpu")
    assert tokenizer(text)["input_ids"] == truth
    assert tokenizer.decode(truth) == text


def test_loading_says_nothing_and_leaves_transformers_as_talkative_as_it_was(
    saved: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    before = logging.get_verbosity()
    load(str(saved), device="cpu")
    assert capfd.readouterr().err == ""
    assert logging.get_verbosity() == before
    assert logging.is_progress_bar_enabled()


def test_a_model_downloaded_earlier_is_loaded_where_the_hub_does_not_answer(
    saved: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    snapshot = tmp_path / "models--own--toy" / "snapshots" / ("a" * 40)
    shutil.copytree(saved, snapshot)
    (tmp_path / "models--own--toy" / "refs").mkdir()
    (tmp_path / "models--own--toy" / "refs" / "main").write_text("a" * 40)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")
    with pytest.warns(SkipKVWarning, match=r"'own/toy' from files that were downloaded earlier"):
        model, tokenizer = load("own/toy", device="cpu")
    expected, _ = load(saved, device="cpu")
    ids = torch.tensor([tokenizer("so one plus two.\n\n")["input_ids"]])
    assert torch.equal(model(ids).logits, expected(ids).logits)
