"""README's picture is drawn from the tables of two pages."""

from pathlib import Path

import pytest
from overview import SHOWN, TABLES, accuracies
from pages import DOCS, insert, inserted

from skipkv.evaluation import Estimate


def test_a_table_is_read_by_policy_and_budget(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("Above.\n<!-- one:begin -->\n<!-- one:end -->\nBelow.\n")
    table = (
        "| policy | reads | 8% | 13% |\n|---|---|--:|--:|\n| `rkv` | keys | 7.0 [6.5, 8.0] | - |"
    )
    insert(page, "one", table)
    assert inserted(page, "one") == table
    assert accuracies(page, "one") == {"rkv": {8.0: Estimate(value=7.0, low=6.5, high=8.0)}}
    with pytest.raises(ValueError, match="has no place marked <!-- two"):
        inserted(page, "two")


def test_the_pages_have_what_the_picture_shows() -> None:
    for place, (page, name) in enumerate(TABLES):
        found = accuracies(DOCS / page, name)
        labels = {labels[place] for labels in SHOWN.values()} - {None}
        assert {"full", *labels} <= found.keys()
