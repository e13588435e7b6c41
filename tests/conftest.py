"""What all tests share: golden data, and one thread for torch, whose tensors here are tiny."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import settings
from safetensors.torch import load_file

ROOT = Path(__file__).parent
torch.set_num_threads(1)
# How long an example takes says nothing about the code on a busy machine.
settings.register_profile("untimed", deadline=None)
settings.load_profile("untimed")


@pytest.fixture(scope="session")
def golden_path() -> Callable[[str], Path]:
    """Where a file of golden data lies; skips the test where it lies nowhere."""

    def find(name: str) -> Path:
        for folder in (ROOT / "data" / "goldens", ROOT.parent.parent / "shared" / "goldens"):
            if (folder / name).exists():
                return folder / name
        pytest.skip(f"golden data {name} is not here")

    return find


@pytest.fixture(scope="session")
def golden(golden_path: Callable[[str], Path]) -> Callable[[str], dict[str, torch.Tensor]]:
    """Loads a file of golden tensors by its name, once per session."""
    loaded: dict[str, dict[str, torch.Tensor]] = {}

    def load(name: str) -> dict[str, torch.Tensor]:
        if name not in loaded:
            loaded[name] = load_file(golden_path(name))
        return loaded[name]

    return load


@pytest.fixture(scope="session")
def meta(golden_path: Callable[[str], Path]) -> dict[str, Any]:
    """Settings of the golden compressions: `single` and `skipkv_multi`, by case."""
    return json.loads(golden_path("meta_kv.json").read_text())
