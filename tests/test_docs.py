"""What the documentation shows works: README.md, the other pages, and every docstring."""

import ast
import re
import shlex
from pathlib import Path

import pytest
import typer
from sybil import Sybil
from sybil.document import PythonDocStringDocument
from sybil.parsers.doctest import DocTestParser
from sybil.parsers.markdown import PythonCodeBlockParser, SkipParser

from skipkv.cli.app import app
from skipkv.presets import NAMES

ROOT = Path(__file__).parents[1]
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")])
MODULES = sorted(p for p in (ROOT / "skipkv").rglob("*.py") if ">>>" in p.read_text())

pages = Sybil(parsers=[PythonCodeBlockParser(), SkipParser()])
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
        for match in re.finditer(rf"^```{language}\n(.*?)^```", text, re.DOTALL | re.MULTILINE):
            line = text.count("\n", 0, match.start()) + 1
            found.append(pytest.param(match[1], id=f"{_name(page)}:{line}"))
    return found


def _commands() -> list[object]:
    """Every `skipkv ...` line of the bash blocks."""
    return [
        pytest.param(line, id=line)
        for block in _blocks("bash")
        for line in block.values[0].splitlines()
        if line.startswith("skipkv ")
    ]


@pytest.mark.parametrize("path", PAGES, ids=_name)
def test_the_python_of_a_page_runs_from_top_to_bottom(path):
    for example in pages.parse(path).examples():
        example.evaluate()


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
