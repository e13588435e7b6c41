"""What all tests share: golden data, the site, and one thread for torch, whose tensors are tiny."""

import json
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jaxtyping
import pytest
import torch
from hypothesis import settings
from safetensors.torch import load_file

ROOT = Path(__file__).parent
torch.set_num_threads(1)
# How long an example takes says nothing about the code on a busy machine. "few" is for further
# versions of transformers, "many" for a search for faults: pytest --hypothesis-profile=many.
for name, examples in (("few", 4), ("usual", 16), ("many", 500)):
    settings.register_profile(name, deadline=None, max_examples=examples)
settings.load_profile("usual")


@pytest.fixture
def as_users_call(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the check of types that tests run under: users get the library's own errors."""
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)


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


@pytest.fixture(scope="session")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The site as `make docs` builds it: strictly, and here with no way to a network."""
    from mkdocs.commands.build import build
    from mkdocs.config import load_config

    def refused(*_: object) -> None:
        raise OSError("the site is built without a network")

    folder = tmp_path_factory.mktemp("site")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(socket.socket, "connect", refused)
        patch.setenv("NO_MKDOCS_2_WARNING", "1")
        build(load_config(str(ROOT.parent / "mkdocs.yml"), site_dir=str(folder)))
    return folder
