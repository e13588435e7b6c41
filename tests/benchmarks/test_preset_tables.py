"""The tables of presets say what the presets are."""

import inspect
import shutil
from pathlib import Path

import preset_tables
import pytest

from skipkv import presets


def test_the_tables_of_presets_are_what_the_presets_say(tmp_path: Path) -> None:
    pages = (preset_tables.README, preset_tables.CHOOSING)
    copies = [Path(shutil.copy(page, tmp_path)) for page in pages]
    preset_tables.write(*copies)
    for page, copy in zip(pages, copies, strict=True):
        assert page.read_text() == copy.read_text(), f"`make tables` writes {page.name} again"


@pytest.mark.parametrize("name", presets.NAMES)
def test_a_preset_says_of_which_method_it_is_and_what_it_keeps(name: str) -> None:
    method, keeps, paper = preset_tables.told(name)
    assert method, "the first line of the docstring is `Method: what it keeps.`"
    assert keeps, "the first line of the docstring is `Method: what it keeps.`"
    assert bool(paper) == ("arXiv" in (inspect.getdoc(presets.get(name)) or ""))
