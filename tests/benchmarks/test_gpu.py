"""The GPU's benchmark runs on a CPU too, so that only the device itself is untested without one."""

import itertools
import json
import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import gpu
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


def test_every_part_of_it_gives_numbers(config: Path, tmp_path: Path) -> None:
    gpu.main(
        output=tmp_path / "out" / "gpu.json",
        config=config,
        device="cpu",
        dtype="float32",
        batch=2,
        budget=24,
        interval=8,
        new_tokens=24,
        policies="streaming_llm,skipkv",
        lengths="16,64",
        generate_steps=4,
        long=128,
        room=64,
        trials=2,
    )
    found = json.loads((tmp_path / "out" / "gpu.json").read_text())
    assert found["copy_bandwidth_bytes_per_second"] > 0
    for name in ("floor", "streaming_llm", "skipkv"):
        step = found["steps"][name]
        assert step["status"] == "ok"
        assert step["step_over_bytes"] == pytest.approx(step["step_ms"] / step["bytes_ms"])
        assert found["long"][name]["speedup"] > 0
    assert set(found["generate_dynamic_step_seconds_at"]) == {"16", "64"}
    assert found["room"]["bytes_per_sequence"] == {"full": 64 * 256, "budget": 32 * 256}
    assert found["room"]["skipkv"]["fits"] >= 8 * found["room"]["full"]["fits"] > 0


def test_a_step_reads_all_weights_but_the_embedding_s(config: Path) -> None:
    model, _ = load(f"random:{config}", device="cpu")
    everything = sum(p.numel() for p in model.parameters())
    assert gpu.weight_bytes(model) == 4 * (everything - 400 * 32)


@given(
    st.dictionaries(st.integers(0, 50), st.floats(0, 9), min_size=2, max_size=6),
    st.integers(0, 40),
    st.integers(1, 60),
)
def test_the_integral_is_that_of_the_line_through_the_points(
    known: dict[int, float], first: int, count: int
) -> None:
    import numpy as np

    points = sorted(known.items())

    def at(n: float) -> float:
        if n <= points[0][0]:
            (a, va), (b, vb) = points[:2]
        elif n >= points[-1][0]:
            (a, va), (b, vb) = points[-2:]
        else:
            return float(np.interp(n, *zip(*points, strict=True)))
        return va + (vb - va) * (n - a) / (b - a)

    values = [at(n) for n in range(first, first + count + 1)]
    exact = sum((a + b) / 2 for a, b in itertools.pairwise(values))
    assert gpu.integral(known, first, first + count) == pytest.approx(exact, abs=1e-9)


@given(st.integers(0, 500), st.integers(1, 600))
def test_the_search_ends_between_what_fits_and_what_does_not(most: int, start: int) -> None:
    tried: list[int] = []

    def fits(size: int) -> bool:
        tried.append(size)
        return size <= most

    found = gpu.largest(fits, start, 30)
    assert found == {"fits": most, "does_not": most + 1}
    assert len(tried) == len(set(tried)) <= 30


def test_only_memory_running_out_counts_as_not_fitting(config: Path) -> None:
    model, tokenizer = load(f"random:{config}", device="cpu")
    job = gpu.Job(
        model=model, tokenizer=tokenizer, prompts=((1, 2),), new_tokens=4, interval=2, budget=8
    )

    def failing(error: Exception) -> Callable[[], None]:
        def work() -> None:
            raise error

        return work

    assert gpu._fits(job, lambda: None)
    assert not gpu._fits(job, failing(torch.OutOfMemoryError("out of memory")))
    with pytest.raises(ValueError, match="a bug"):
        gpu._fits(job, failing(ValueError("a bug")))


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU, and it takes minutes there")
def test_the_script_says_that_it_needs_a_gpu(tmp_path: Path) -> None:
    import sys

    done = subprocess.run(
        [str(SCRIPT), str(tmp_path / "out")],
        env={**os.environ, "PYTHON": sys.executable},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert "No GPU" in done.stderr
