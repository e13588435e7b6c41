"""The page of the benchmark has a place for all that its script measures."""

import shutil
from pathlib import Path

import performance
import pytest
from pages import insert

from skipkv.benchmark import Bench, policies_of
from skipkv.models import load


def test_a_run_fills_every_place_of_the_page(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pictures: list[tuple[Path, str]] = []
    monkeypatch.setattr(performance, "picture", lambda *given: pictures.append(given))
    page = Path(shutil.copy(performance.PAGE, tmp_path / "page.md"))
    bench = Bench(
        subjects=policies_of(["streaming_llm"], settings={}),
        batch_sizes=[1],
        budgets=[16],
        interval=4,
        new_tokens=4,
        prompt_tokens=4,
        repeats=1,
    )
    bench.run(*load("tiny", device="cpu"), tmp_path / "run", model_name="tiny")
    for name in ("tiny", "smollm"):
        performance.fill(name, tmp_path / "run", page)
    insert(page, "profile", "| phase |")
    text = page.read_text()
    assert "Not yet measured" not in text
    assert text.count("| streaming_llm | 16 |") >= 2 * 3
    assert len(pictures) == 2 * len(performance.PLOTS)
