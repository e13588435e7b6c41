"""Tables and pictures of documentation pages, put there by the commands that measure them."""

import shutil
from pathlib import Path

DOCS = Path(__file__).parents[1] / "docs"


def insert(page: Path, name: str, text: str) -> None:
    """Replace the text between `<!-- NAME:begin -->` and `<!-- NAME:end -->` in a page.

    Raises:
        ValueError: the page has no such place.
    """
    begin, end = f"<!-- {name}:begin -->", f"<!-- {name}:end -->"
    before, found, rest = page.read_text().partition(begin)
    _, closed, after = rest.partition(end)
    if not (found and closed):
        raise ValueError(f"{page} has no place marked {begin} ... {end}.")
    page.write_text(f"{before}{begin}\n\n{text.strip()}\n\n{end}{after}")


def picture(source: Path, name: str) -> None:
    """Copy a picture to docs/images."""
    (DOCS / "images").mkdir(exist_ok=True)
    shutil.copyfile(source, DOCS / "images" / name)
