"""The site asks a reader's browser for nothing from elsewhere, and what it is made of renders.

That it builds strictly and without a network is what the fixture `site` needs.
"""

import re
import shutil
import subprocess
from pathlib import Path

import pytest
import typer

from skipkv.cli.app import app

ROOT = Path(__file__).parents[1]
FETCHED = r"<(?:script|img|iframe|source|video|audio)\b[^>]*?\bsrc=\"([^\"]+)"
LINKED = r"<link\b[^>]*?\bhref=\"([^\"]+)"


def test_no_page_fetches_anything_from_elsewhere(site):
    pages = list(site.rglob("*.html"))
    assert len(pages) > 20
    for page in pages:
        text = page.read_text()
        fetched = re.findall(FETCHED, text) + re.findall(LINKED, text)
        # the page of a trace forbids itself to fetch
        assert fetched or "content=\"default-src 'none'; " in text
        assert not [url for url in fetched if re.match(r"(?:\w+:)?//", url)], page.name
        # the theme would fetch the program that draws these
        assert 'class="mermaid"' not in text, page.name


def test_no_style_fetches_anything_from_elsewhere(site):
    styles = list(site.rglob("*.css"))
    assert styles
    for style in styles:
        assert not re.search(r"url\(\s*[\"']?(?:https?:)?//|@import", style.read_text()), style.name


@pytest.mark.parametrize("page", sorted((ROOT / "docs" / "reference").glob("*.md")), ids=str)
def test_a_page_of_the_reference_leaves_no_section_or_directive_as_text(page, site):
    text = (site / "reference" / f"{page.stem}.html").read_text()
    assert not re.findall(r"<p>(?:Args|Raises|Returns|Yields|Examples?|Source|Differs):", text)
    assert not re.findall(r"<p>(?::::|&gt;&gt;&gt;)|<blockquote>", text)


def test_the_reference_has_every_option_of_every_command(site):
    text = (site / "reference" / "commands.html").read_text()
    for name, command in typer.main.get_command(app).commands.items():
        assert f"skipkv {name}" in text
        for parameter in command.params:
            argument = parameter.param_type_name == "argument"
            shown = parameter.name.upper() if argument else parameter.opts[0]
            assert f"<code>{shown}</code>" in text
            default = parameter.default
            if isinstance(default, int | float) and not isinstance(default, bool):
                shown = rf"<code>{parameter.opts[-1]}</code></td>\s*<td><code>{default}</code>"
                assert re.search(shown, text), f"{name} {parameter.opts}"


def test_links_of_pages_that_lie_outside_docs_lead_into_the_site(site):
    card = (site / "tiny.html").read_text()
    assert "The embedded reasoner: model card" in card
    assert 'href="tiny.html"' in (site / "results.html").read_text()
    assert 'href="testing.html"' in (site / "contributing.html").read_text()


@pytest.mark.parametrize(("width", "scrolls"), [(390, {"img", "table"}), (1600, {"table"})])
def test_what_is_wider_than_the_window_says_that_it_scrolls(width, scrolls, site, tmp_path):
    browser = shutil.which("chromium")
    if browser is None:
        pytest.skip("needs the program chromium")
    shown = subprocess.run(
        [browser, "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path}",
         f"--window-size={width},900", "--virtual-time-budget=10000", "--dump-dom",
         (site / "results.html").as_uri()],
        capture_output=True, text=True, timeout=60, check=True,
    ).stdout  # fmt: skip
    marked = re.findall(r"scroll sideways.*?<(img|table)\b", shown, re.S)
    assert set(marked) == scrolls
