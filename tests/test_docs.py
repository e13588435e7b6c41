"""What the documentation shows works: README.md, the other pages, and every docstring."""

import ast
import os
import re
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from unittest import SkipTest

import pytest
import typer
from sybil import Document, Example, Region, Sybil
from sybil.document import PythonDocStringDocument
from sybil.parsers.doctest import DocTestParser
from sybil.parsers.markdown import CodeBlockParser, PythonCodeBlockParser, SkipParser
from sybil.parsers.markdown.lexers import FencedCodeBlockLexer

from skipkv.cli.app import app
from skipkv.presets import NAMES

ROOT = Path(__file__).parents[1]
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")])
MODULES = sorted(p for p in (ROOT / "skipkv").rglob("*.py") if ">>>" in p.read_text())

IMAGE_LINK = r"!\[[^\]]*\]\(([^)\s]+)|<img[^>]+src=\"([^\"]+)"
# Environments are not set up again: what a reader installs is what the tests run with.
# A block begins in the folder where the one before it ended.
PREAMBLE = """set -euo pipefail
trap 'pwd > "$ENDED_IN"' EXIT
pip() { :; }
make() { :; }
python() {
    case "$*" in
        "-m pip "*) ;;
        "-m venv "*) mkdir -p "$3/bin" && touch "$3/bin/activate" ;;
        *) "$PYTHON" "$@" ;;
    esac
}
python3() { python "$@"; }
pytest() { python -m pytest "$@"; }
skipkv() { python -m skipkv "$@"; }
"""


def _run_shell(example: Example) -> None:
    """Run a bash block where the page's earlier blocks led to, and stop where a line fails."""
    paths = [str(ROOT), os.environ.get("PYTHONPATH", "")]
    environment = os.environ | {
        "PYTHON": sys.executable,
        "PYTHONPATH": os.pathsep.join(filter(None, paths)),
        "OMP_NUM_THREADS": "1",
        "HF_HUB_OFFLINE": "1",
    }
    with tempfile.NamedTemporaryFile("r") as ended_in:
        ran = subprocess.run(
            ["bash", "-c", PREAMBLE + example.parsed],
            env=environment | {"ENDED_IN": ended_in.name},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
        )
        said = (ran.stdout + ran.stderr)[-2000:]
        assert ran.returncode == 0, f"line {example.line}:\n{example.parsed}\n{said}"
        os.chdir(ended_in.read().rstrip("\n"))


def _files(document: Document) -> Iterator[Region]:
    """Blocks that a reader copies into a file: ```python title="its_name.py"."""
    for region in FencedCodeBlockLexer(r'\w+ title="[^"\n]+"')(document):
        region.parsed = (region.lexemes["language"].split('"')[1], region.lexemes["source"])
        region.evaluator = _write_file
        yield region


def _write_file(example: Example) -> None:
    name, source = example.parsed
    Path(name).write_text(source)


pages = Sybil(
    parsers=[PythonCodeBlockParser(), CodeBlockParser("bash", _run_shell), _files, SkipParser()]
)
docstrings = Sybil(
    parsers=[DocTestParser()], document_types={".py": PythonDocStringDocument}, path=str(ROOT)
)


def _name(path: Path) -> str:
    return str(path.relative_to(ROOT))


def _blocks(language: str) -> list[object]:
    """The fenced blocks of a language on all pages, each named for its place."""
    found = []
    for page in PAGES:
        text = page.read_text()
        for match in re.finditer(
            rf"^```{language}(?: title=.*?)?\n(.*?)^```", text, re.DOTALL | re.MULTILINE
        ):
            line = text.count("\n", 0, match.start()) + 1
            found.append(pytest.param(match[1], id=f"{_name(page)}:{line}"))
    return found


def _commands() -> list[object]:
    """Every `skipkv ...` line of the bash blocks."""
    return [
        pytest.param(line, id=line)
        for block in _blocks("bash")
        for line in block.values[0].replace("\\\n", " ").splitlines()
        if line.startswith("skipkv ")
    ]


def _run_page(path: Path, folder: Path, *, slow: bool) -> None:
    """Run all blocks of a page in an empty folder that has the scripts of a checkout."""
    for scripts in ("benchmarks", "examples"):
        (folder / scripts).symlink_to(ROOT / scripts)
    document = pages.parse(path)
    document.namespace["slow"] = slow
    for example in document.examples():
        try:
            example.evaluate()
        except SkipTest:  # this block alone; the page says why
            continue


@pytest.mark.parametrize("path", PAGES, ids=_name)
def test_the_python_and_the_shell_of_a_page_run_from_top_to_bottom(path, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    _run_page(path, tmp_path, slow=False)


@pytest.mark.slow
@pytest.mark.parametrize(
    "path", [p for p in PAGES if "\n<!--- skip: next if(not slow" in p.read_text()], ids=_name
)
def test_what_takes_long_on_a_page_runs_too(path, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    _run_page(path, tmp_path, slow=True)


@pytest.mark.parametrize("path", PAGES, ids=_name)
def test_a_shell_block_that_is_not_run_says_why(path):
    skipped = re.findall(r"^<!-+ *skip: next(.*?)-+>\n+```bash", path.read_text(), re.MULTILINE)
    assert all(re.search(r'"[^"]{10,}"', reason) for reason in skipped)


@pytest.mark.parametrize("path", MODULES, ids=_name)
def test_the_examples_of_a_docstring_give_what_they_say(path):
    document = docstrings.parse(path)
    examples = list(document.examples())
    assert examples, "holds >>> but no example was found"
    for example in examples:
        example.evaluate()


@pytest.mark.parametrize("source", _blocks("python"))
def test_every_python_block_is_python_also_where_it_is_not_run(source):
    ast.parse(source)


@pytest.mark.parametrize("line", _commands())
def test_every_command_shown_is_understood(line):
    arguments = shlex.split(line.partition(" < ")[0], comments=True)[1:]
    command = typer.main.get_command(app).commands[arguments[0]]
    command.make_context(arguments[0], arguments[1:])


def test_the_table_of_presets_lists_each_of_them():
    section = (ROOT / "README.md").read_text().partition("## Presets")[2].partition("\n## ")[0]
    assert tuple(re.findall(r"^\| `(\w+)`", section, re.MULTILINE)) == NAMES


def test_every_make_target_named_is_there():
    makefile = (ROOT / "Makefile").read_text()
    targets = set(re.findall(r"^([a-z-]+):", makefile, re.MULTILINE))
    named = {name for page in PAGES for name in re.findall(r"`make ([a-z-]+)", page.read_text())}
    assert named
    assert named <= targets


def _images_of(page: Path) -> list[Path]:
    found = [a or b for a, b in re.findall(IMAGE_LINK, page.read_text())]
    return [(page.parent / image).resolve() for image in found if "://" not in image]


@pytest.mark.parametrize("page", PAGES, ids=_name)
def test_every_image_of_a_page_is_there(page):
    missing = [image for image in _images_of(page) if not image.is_file()]
    assert not missing


def test_every_image_is_on_some_page():
    images = {p for p in (ROOT / "docs").rglob("*") if p.suffix in (".png", ".svg", ".jpg")}
    assert images
    assert not images - {image for page in PAGES for image in _images_of(page)}


@pytest.mark.parametrize("page", PAGES, ids=_name)
def test_what_a_page_links_to_in_the_repository_is_there(page):
    targets = re.findall(r"\]\(([^)\s#]+)(?:#[^)\s]*)?\)", page.read_text())
    missing = [t for t in targets if "://" not in t and not (page.parent / t).exists()]
    assert not missing


def test_every_file_of_the_tests_that_a_page_names_is_there():
    named = {name for p in PAGES for name in re.findall(r"`(tests/[\w/.]+)`", p.read_text())}
    assert named
    assert not [name for name in named if "your_" not in name and not (ROOT / name).exists()]
