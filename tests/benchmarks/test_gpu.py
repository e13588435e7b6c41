"""The GPU's benchmark runs on a CPU too, so that only the device itself is untested without one."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import attrs
import gpu
import gpu_table
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from skipkv.models import load

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "gpu.sh"
CONFIG = {
    "model_type": "qwen2",
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_attention_heads": 4,
    "num_hidden_layers": 2,
    "num_key_value_heads": 2,
    "vocab_size": 400,
    "tie_word_embeddings": False,
    "dtype": "float32",
}


@pytest.fixture
def config(tmp_path: Path) -> Path:
    (tmp_path / "small.json").write_text(json.dumps(CONFIG))
    return tmp_path / "small.json"


def small(config: Path) -> gpu.Setting:
    return gpu.Setting(
        device="cpu",
        dtype="float32",
        configs={"7b": config, "1.5b": config},
        batch=2,
        budget=24,
        interval=8,
        new_tokens=24,
        steps=3,
        room=64,
        trials=2,
    )


def lines(folder: Path) -> dict[str, Any]:
    results = [json.loads(line) for line in (folder / "gpu.jsonl").read_text().splitlines()]
    assert len({result["part"] for result in results}) == len(results)
    return {result["part"]: result for result in results}


@pytest.mark.slow
def test_every_part_gives_numbers_and_a_row(config: Path, tmp_path: Path) -> None:
    gpu.measure(small(config), tmp_path)
    found = lines(tmp_path)
    assert set(found) == set(gpu.Bench(small(config)).parts())
    assert {part: r["status"] for part, r in found.items() if r["status"] != "ok"} == {}
    for name in ("floor", "streaming_llm", "skipkv"):
        step = found[f"steps/7b/{name}"]
        assert step["step_over_bytes"] == pytest.approx(step["step_ms"] / step["bytes_ms"])
    cell = found["table/7b/24/skipkv/200"]
    assert cell["batch"] == 200
    assert cell["event_ms"] > 0
    room = found["room/7b"]
    assert room["bytes_per_sequence"] == {"full": 64 * 256, "budget": 32 * 256}
    assert room["rkv"]["fits"] > room["full"]["fits"] > 0
    table = gpu_table.tables(found.values())
    assert all(f"| {part} |" in table for part in found)


def test_a_stopped_run_goes_on_and_says_which_part_ended_it(config: Path, tmp_path: Path) -> None:
    some = ("device", "steps/7b/rkv", "attention/7b/10")
    gpu.measure(small(config), tmp_path, only=some[:1])
    (tmp_path / "gpu.begun").write_text("steps/7b/rkv")  # as a process leaves it that ends there
    gpu.measure(small(config), tmp_path, only=some)
    found = lines(tmp_path)
    assert [found[part]["status"] for part in some] == ["ok", "the process ended in it", "ok"]
    assert "the process ended in it" in gpu_table.tables(found.values())


def test_a_part_that_fails_says_why_and_the_others_go_on(config: Path, tmp_path: Path) -> None:
    setting = attrs.evolve(small(config), configs={"7b": tmp_path / "none.json"})
    gpu.measure(setting, tmp_path, only=["steps/7b/rkv", "device"])
    found = lines(tmp_path)
    assert found["device"]["status"] == "ok"
    assert found["steps/7b/rkv"]["status"] == "error"
    assert "no such file" in found["steps/7b/rkv"]["reason"]


@pytest.mark.slow
def test_a_part_that_takes_too_long_ends_its_process_with_a_line(
    config: Path, tmp_path: Path
) -> None:
    code = (
        "import gpu, pathlib, time\n"
        "gpu.Bench.about = lambda bench: time.sleep(60)\n"
        f"setting = gpu.Setting(device='cpu')\n"
        f"gpu.measure(setting, pathlib.Path({str(tmp_path)!r}), only=['device'], limit=0.2)\n"
    )
    folder = str(SCRIPT.parent)
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": f"{folder}:{SCRIPT.parents[1]}"},
        check=False,
    )
    assert done.returncode == 3
    assert lines(tmp_path)["device"]["status"] == "took longer than 0.2 s"


def test_a_step_reads_all_weights_but_the_embedding_s(config: Path) -> None:
    model, _ = load(f"random:{config}", device="cpu")
    everything = sum(p.numel() for p in model.parameters())
    assert gpu.weight_bytes(model) == 4 * (everything - 400 * 32)


@given(st.integers(0, 500), st.integers(1, 600))
def test_the_search_ends_between_what_fits_and_what_does_not(most: int, start: int) -> None:
    tried: list[int] = []

    def fits(size: int) -> bool:
        tried.append(size)
        return size <= most

    found = gpu.largest(fits, start, 30)
    assert found == {"fits": most, "does_not": most + 1}
    assert len(tried) == len(set(tried)) <= 30


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU, and it takes minutes there")
def test_the_script_says_that_it_needs_a_gpu(tmp_path: Path) -> None:
    done = subprocess.run(
        [str(SCRIPT), str(tmp_path / "out")],
        env={**os.environ, "PYTHON": sys.executable},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert "No GPU" in done.stderr
