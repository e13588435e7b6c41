"""A small random model, and measurements without one."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from skipkv.benchmark import Case, Measurement
from skipkv.models import load

CONFIG = {
    "architectures": ["Qwen2ForCausalLM"],
    "model_type": "qwen2",
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_attention_heads": 4,
    "num_hidden_layers": 2,
    "num_key_value_heads": 2,
    "vocab_size": 400,
    "max_position_embeddings": 512,
    "rms_norm_eps": 1e-6,
    "tie_word_embeddings": False,
    "dtype": "float32",
}


@pytest.fixture(scope="session")
def config_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("config") / "small.json"
    path.write_text(json.dumps(CONFIG))
    return path


@pytest.fixture(scope="session")
def small(config_file: Path) -> tuple[Any, Any]:
    return load(f"random:{config_file}", device="cpu")


@pytest.fixture
def measured() -> Callable[..., Measurement]:
    """A measurement of made-up laps."""

    def make(
        subject: str = "rkv",
        *,
        budget: int | None = 8,
        batch_size: int = 2,
        repeat: int = 0,
        steps: tuple[float, ...] = (1.0, 1.0, 1.0),
        events: tuple[float, ...] = (),
        first_token: float = 1.0,
        cpu: float = 3.0,
        answer: dict[str, Any] | None = None,
        **changes: Any,
    ) -> Measurement:
        elapsed, curve = first_token, [(1, first_token, 0)]
        for step in steps:
            elapsed += step
            curve.append((len(curve) + 1, elapsed, 100))
        return Measurement.of(
            Case(subject=subject, batch_size=batch_size, budget=budget),
            repeat=repeat,
            new_tokens=len(steps) + 1,
            answer=answer
            or {
                "steps": list(steps),
                "events": list(events),
                "first_token": first_token,
                "seconds": elapsed + sum(events),
                "cpu_seconds": cpu,
                "samples": curve,
                "peak_bytes": 1000,
            },
            **changes,
        )

    return make
