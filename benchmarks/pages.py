"""Tables and pictures of documentation pages, put there by the commands that measure them."""

import shutil
from pathlib import Path

from skipkv.evaluation import Estimate

DOCS = Path(__file__).parents[1] / "docs"


def interval(estimate: Estimate, form: str) -> str:
    """A value with its interval, as cells of tables have it.

    Args:
        estimate: the value.
        form: of each number, such as "+.1f".
    """
    return f"{estimate.value:{form}} [{estimate.low:{form}}, {estimate.high:{form}}]"


def insert(page: Path, name: str, text: str) -> None:
    """Replace the text between `<!-- NAME:begin -->` and `<!-- NAME:end -->` in a page.

    Raises:
        ValueError: the page has no such place.
    """
    before, _, after = _parts(page, name)
    begin, end = _marks(name)
    page.write_text(f"{before}{begin}\n\n{text.strip()}\n\n{end}{after}")


def inserted(page: Path, name: str) -> str:
    """What `insert` has put into a page.

    Raises:
        ValueError: the page has no such place.
    """
    return _parts(page, name)[1].strip()


def _parts(page: Path, name: str) -> tuple[str, str, str]:
    """A page's text before a place, in it, and after it."""
    begin, end = _marks(name)
    before, found, rest = page.read_text().partition(begin)
    inside, closed, after = rest.partition(end)
    if not (found and closed):
        raise ValueError(f"{page} has no place marked {begin} ... {end}.")
    return before, inside, after


def _marks(name: str) -> tuple[str, str]:
    return f"<!-- {name}:begin -->", f"<!-- {name}:end -->"


def picture(source: Path, name: str) -> None:
    """Copy a picture to docs/images."""
    (DOCS / "images").mkdir(exist_ok=True)
    shutil.copyfile(source, DOCS / "images" / name)
