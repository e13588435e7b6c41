"""What all tests of the evaluation share."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from fake_runs import CharTokenizer, FakeEngine, Fakes, fake_model

SHARED = Path(__file__).parents[3] / "shared" / "data"


@pytest.fixture
def full_file() -> Callable[[str], Path]:
    """A whole data set; skips the test where it is not beside the repository."""

    def find(name: str) -> Path:
        if not (SHARED / name).exists():
            pytest.skip(f"{name} is not in ../shared/data")
        return SHARED / name

    return find


@pytest.fixture
def fakes(monkeypatch: pytest.MonkeyPatch) -> Fakes:
    """The fake engine in the engine's place."""
    decoded: list[dict[str, Any]] = []
    engine = type("Engine", (FakeEngine,), {"decoded": decoded})
    monkeypatch.setattr("skipkv.evaluation.sweep.Engine", engine)
    return Fakes(fake_model(), CharTokenizer(), engine, decoded)
