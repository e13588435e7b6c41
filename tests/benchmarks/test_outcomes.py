"""Outcomes that are kept: written and read, and what is told of them against plain arithmetic."""

from pathlib import Path

import attrs
import pytest
import rambler
from outcomes import FOLDER, Outcomes, OutcomesFolder

SETTINGS: dict[str, object] = {"problems": 3, "samples": 2}


def cell(policy: str = "rkv", asked: str | None = "8%", **changes: object) -> Outcomes:
    made = Outcomes(
        policy=policy,
        asked=asked,
        budget=81,
        composition="Policy()",
        versions={"torch": "2"},
        samples=2,
        kinds={"slip": [1], "no end": [4, 5]},
        tokens=[10, 30, 20, 20, 50, 70],
        counts={"checks": [1, 2, 3, 4, 5, 6]},
    )
    return attrs.evolve(made, **changes)


def test_a_problem_counts_once_whatever_its_samples_gave() -> None:
    assert cell().accuracies == [0.5, 1.0, 0.0]
    assert cell().lengths == [20, 20, 60]
    assert cell().accuracy.value == pytest.approx(50)
    assert cell().share("right") == pytest.approx(50)
    assert cell().share("no end") == pytest.approx(100 / 3)
    assert cell().share("stale") == 0


def test_differences_are_paired_over_problems() -> None:
    better = cell(kinds={"slip": [1]}, tokens=[5, 15, 10, 10, 25, 35])
    assert better.points_to(cell()).value == pytest.approx(100 / 3)
    assert better.longer_than(cell()).value == pytest.approx(-50)


def test_a_cell_is_read_as_it_was_written_and_replaces_its_own_only(tmp_path: Path) -> None:
    folder = OutcomesFolder(tmp_path, SETTINGS)
    others = [cell("rkv", "13%", budget=131), cell("rkv + steering 1.5"), cell("full", None)]
    for one in (cell(), *others):
        folder.add(one)
    newer = cell(kinds={})
    folder.add(newer)
    found = OutcomesFolder(tmp_path, SETTINGS).read()
    assert found == {(c.policy, c.asked): c for c in (newer, *others)}


def test_outcomes_of_other_settings_are_refused(tmp_path: Path) -> None:
    OutcomesFolder(tmp_path, SETTINGS)
    with pytest.raises(ValueError, match="other settings"):
        OutcomesFolder(tmp_path, {**SETTINGS, "samples": 1})


def test_what_is_kept_is_whole_and_the_page_tells_it() -> None:
    cells = OutcomesFolder(FOLDER / "rambler", rambler.settings()).read()
    known = {"full", *rambler.candidates()}
    for kept in cells.values():
        assert len(kept.tokens) == rambler.PROBLEMS * rambler.SAMPLES
        assert all(len(counts) == len(kept.tokens) for counts in kept.counts.values())
        assert kept.policy in known
    page = (Path(rambler.DOCS) / "rambler.md").read_text()
    assert rambler.accuracies(cells) in page
