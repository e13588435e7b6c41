"""The baseline in another environment: what goes there, and what comes back or does not."""

import ast
import json
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from skipkv.benchmark import Job
from skipkv.benchmark.kvpress import _WORKER, KvpressSubject, check_interpreter, saved
from skipkv.errors import InputError
from skipkv.models import load

SAID = {
    "steps": [0.1, 0.1],
    "events": [],
    "first_token": 0.5,
    "seconds": 0.7,
    "cpu_seconds": 0.6,
    "samples": [[1, 0.5, 0]],
    "peak_bytes": 5,
}


@pytest.fixture
def job(small: tuple[Any, Any]) -> Job:
    return Job(
        model=small[0],
        tokenizer=small[1],
        prompts=((1, 2, 3),),
        new_tokens=50,
        interval=4,
        budget=8,
        threads=1,
    )


def interpreter(folder: Path, body: str) -> Path:
    """Stands in for a Python that has kvpress."""
    path = folder / "python"
    path.write_text(f"#!{sys.executable}\nimport json, sys, os, signal\n{body}\n")
    path.chmod(0o755)
    return path


def test_the_worker_imports_nothing_of_skipkv() -> None:
    tree = ast.parse(_WORKER.read_text())
    modules = {
        name
        for node in ast.walk(tree)
        if isinstance(node, ast.Import | ast.ImportFrom)
        for name in (
            [node.module] if isinstance(node, ast.ImportFrom) else [a.name for a in node.names]
        )
    }
    assert "kvpress" in modules
    assert not any(str(name).startswith("skipkv") for name in modules)


def test_it_is_asked_for_the_same_job_and_answers_its_laps(job: Job, tmp_path: Path) -> None:
    python = interpreter(
        tmp_path,
        "asked = sys.stdin.read(); os.fstat(json.loads(asked)['held'])  # a pipe that is open\n"
        f"open({str(tmp_path / 'asked')!r}, 'w').write(asked)\n"
        f"print('noise'); print(json.dumps({ {**SAID, 'widths': [3, 12]} }))",
    )
    answer = KvpressSubject(python=python, folder=tmp_path).measure(job)
    assert answer["steps"] == [0.1, 0.1]
    asked = json.loads((tmp_path / "asked").read_text())
    assert asked["model"] == str(tmp_path)
    assert asked["prompts"] == [[1, 2, 3]]
    assert (asked["budget"], asked["interval"], asked["new_tokens"]) == (8, 4, 50)
    assert (asked["dtype"], asked["device"], asked["threads"]) == ("float32", "cpu", 1)


def test_a_cache_that_was_never_compressed_is_no_baseline(job: Job, tmp_path: Path) -> None:
    python = interpreter(tmp_path, f"print(json.dumps({ {**SAID, 'widths': [3, 52]} }))")
    answer = KvpressSubject(python=python, folder=tmp_path).measure(job)
    assert answer == {"error": "kvpress did not compress: it held up to 52 entries"}


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ("os.kill(os.getpid(), signal.SIGKILL)", {"oom"}),
        ("print(json.dumps({'oom': 'no memory'}))", {"oom"}),
        ("sys.exit('no such thing')", {"error"}),
    ],
)
def test_a_worker_that_does_not_come_back_says_so(
    body: str, expected: set[str], job: Job, tmp_path: Path
) -> None:
    answer = KvpressSubject(python=interpreter(tmp_path, body), folder=tmp_path).measure(job)
    assert set(answer) == expected


def test_an_interpreter_without_kvpress_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="No such file"):
        check_interpreter(tmp_path / "none")
    with pytest.raises(InputError, match="has no kvpress"):
        check_interpreter(interpreter(tmp_path, "sys.exit(1)"))
    assert check_interpreter(interpreter(tmp_path, "print('0.5.5')")) == "0.5.5"


def test_a_model_without_a_folder_is_saved_for_it(small: tuple[Any, Any], tmp_path: Path) -> None:
    with saved(small[0], None) as folder:
        assert (folder / "config.json").is_file()
        assert list(folder.glob("*.safetensors"))
    assert not folder.exists()
    (tmp_path / "config.json").write_text("{}")
    with saved(small[0], tmp_path) as folder:
        assert folder == tmp_path
    assert tmp_path.exists()


def test_a_model_read_from_gguf_is_saved_as_plain_weights(config_file: Path) -> None:
    model, _ = load(f"random:{config_file}", device="cpu")
    quantizer = SimpleNamespace(quantization_config=SimpleNamespace(quant_method="gguf"))
    model.hf_quantizer = quantizer
    model.config.quantization_config = {"quant_method": "gguf"}
    with saved(model, None) as folder:
        assert "quantization_config" not in json.loads((folder / "config.json").read_text())
        weights = load_file(folder / "model.safetensors")
        assert torch.equal(weights["lm_head.weight"], model.lm_head.weight)
    assert model.hf_quantizer is quantizer
    assert model.config.quantization_config == {"quant_method": "gguf"}
