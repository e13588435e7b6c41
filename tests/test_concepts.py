"""The concept pages say what the code does: laws, members, fields, words, figures, methods."""

import ast
import os
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import attrs
import pytest

import skipkv
from skipkv import CacheView, Needs, SteeringContext, TokenStream, presets
from skipkv.testing.laws import evictor, policy, scheduler, scorer, segmenter, steerer

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
PAGES = [
    *sorted((DOCS / "concepts").glob("*.md")),
    *(DOCS / f"{name}.md" for name in ("glossary", "methods", "coming-from")),
]
LAWS = {
    "index": policy.LAWS,
    "segmenter": segmenter.LAWS,
    "scorer": scorer.LAWS,
    "evictor": evictor.LAWS,
    "steerer": steerer.LAWS,
    "scheduler": scheduler.LAWS,
}
FOLDERS: dict[str, tuple[ModuleType, str]] = {
    "segmenter": (skipkv.segmenters, "Segmenter"),
    "scorer": (skipkv.scorers, "Scorer"),
    "evictor": (skipkv.evictors, "Evictor"),
    "steerer": (skipkv.steerers, "Steerer"),
    "scheduler": (skipkv.schedulers, "BatchScheduler"),
}


def text_of(page: str) -> str:
    return (DOCS / f"{page}.md").read_text()


def section(page: str, title: str) -> str:
    """What stands under a heading of the second level."""
    _, _, after = text_of(page).partition(f"\n## {title}\n")
    assert after, f"{page}.md has no section {title!r}"
    return after.partition("\n## ")[0]


def rows(table: str) -> list[list[str]]:
    """The cells of the rows of the tables in a text, without their headings."""
    found = []
    for block in re.findall(r"(?:^\|.*\n?)+", table, re.MULTILINE):
        lines = block.splitlines()[2:]
        found += [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines]
    return found


def named(cell: str) -> list[str]:
    """The names in backticks."""
    return re.findall(r"`([^`]+)`", cell)


@pytest.mark.parametrize("page", LAWS)
def test_a_page_lists_the_laws_that_the_kit_runs_and_says_what_each_is_for(page):
    listed = rows(section(f"concepts/{page}", "Laws"))
    assert [(named(name)[0], says) for name, says, _ in listed] == [
        (law.name, law.says) for law in LAWS[page]
    ]
    assert all(len(why.strip("| ")) > 20 for *_, why in listed)


@pytest.mark.parametrize("page", FOLDERS)
def test_a_page_lists_every_member_of_its_folder(page):
    folder, protocol = FOLDERS[page]
    listed = [named(row[0])[0] for row in rows(section(f"concepts/{page}", "Members"))]
    exported = set(folder.__all__)
    assert len(listed) == len(set(listed))
    assert set(listed) == exported - {protocol}


@pytest.mark.parametrize(
    ("page", "value"),
    [("scorer", CacheView), ("steerer", SteeringContext), ("segmenter", TokenStream)],
)
def test_a_page_shows_every_field_of_what_its_part_sees(page, value):
    shown = {
        named(row[0])[0].removeprefix("context.")
        for row in rows(section(f"concepts/{page}", "What it sees"))
    }
    assert {field.name for field in attrs.fields(value)} <= shown


def test_the_page_on_concepts_tells_of_every_need():
    table = section("concepts/index", "What is recorded")
    assert {f"Needs({field.name}" for field in attrs.fields(Needs)} == set(
        re.findall(r"^\| `(Needs\(\w+)", table, re.MULTILINE)
    )


@pytest.mark.parametrize("page", FOLDERS)
def test_a_page_has_what_the_others_have(page):
    titles = re.findall(r"^## (.+)$", text_of(f"concepts/{page}"), re.MULTILINE)
    assert titles == [
        "What it sees",
        "When it is called",
        "Laws",
        "State",
        "Members",
        "One of your own",
        "Common mistakes",
    ]
    assert f"../images/concept-{page}.svg" in text_of(f"concepts/{page}")
    assert f"check_{page}(" in section(f"concepts/{page}", "One of your own")


def test_the_glossary_is_in_order_links_every_word_and_explains_the_axes():
    words = rows(text_of("glossary").partition("Axes in annotations")[0])
    terms = [re.sub(r"<.*?>", "", row[0]).lower() for row in words]
    spelled = [term.removeprefix("kv ") for term in terms]
    assert spelled == sorted(spelled)
    assert all("](" in row[3] for row in words)
    axes = {named(row[0])[0] for row in rows(text_of("glossary").partition("Axes in")[2])}
    annotated = set(re.findall(r'"((?:[A-Z] ?)+)"', (ROOT / "skipkv/_types/view.py").read_text()))
    assert {axis for shape in annotated for axis in shape.split()} <= axes


def anchors(page: Path) -> set[str]:
    """What a link into a page may name: its headings, as slugs, and the anchors set by hand."""
    text = re.sub(r"```.*?```", "", page.read_text(), flags=re.DOTALL)
    titles = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    slugs = {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}
    return slugs | set(re.findall(r'<a id="([^"]+)"></a>', text))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_and_images_of_a_page_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text()):
        if target.startswith("http"):
            continue
        path, _, anchor = target.partition("#")
        file = (page.parent / path).resolve() if path else page
        assert file.is_file(), target
        assert not anchor or anchor in anchors(file), target


def test_every_preset_is_told_as_a_composition():
    section_of = section("methods", "Part by part")
    assert [named(row[0])[0] for row in rows(section_of)] == list(presets.NAMES)
    code = section("methods", "As code")
    for name in presets.NAMES:
        assert f"presets.{name}(" in code


def differing() -> set[str]:
    """The public names of parts and presets whose docstring says `Differs:`."""
    found = set()
    files = [ROOT / "skipkv" / "presets.py"]
    for folder in ("segmenters", "scorers", "evictors", "steerers", "schedulers"):
        files += (ROOT / "skipkv" / folder).glob("*.py")
    for file in files:
        for node in ast.parse(file.read_text()).body:
            public = isinstance(node, ast.ClassDef | ast.FunctionDef)
            if public and "Differs:" in (ast.get_docstring(node) or ""):
                found.add(node.name)
    return found


def test_all_that_differs_from_its_source_is_in_the_table_of_differences():
    told = {name for row in rows(section("methods", "Where we differ")) for name in named(row[0])}
    assert told == differing()


def test_the_tests_named_for_parity_are_those_there_are():
    told = {named(row[0])[0] for row in rows(section("methods", "What holds this"))}
    assert told == {path.name for path in (ROOT / "tests" / "parity").glob("test_*.py")}


def test_the_page_on_the_runtime_names_each_of_its_files():
    page = (DOCS / "concepts" / "inside-the-runtime.md").read_text()
    named = {name.rpartition("/")[2] for name in re.findall(r"`([\w/]+)\.py`", page)}
    runtime = ROOT / "skipkv" / "runtime"
    assert named == {path.stem for path in runtime.rglob("*.py")} - {"__init__"}
    for folder, name in re.findall(r"`(?:(\w+)/)?(\w+)\.py`", page):
        assert not folder or (runtime / folder / f"{name}.py").exists(), f"{folder}/{name}.py"


@pytest.fixture(scope="module")
def figures(tmp_path_factory):
    """All figures, drawn twice by processes of their own."""
    folders = []
    for run in range(2):
        folder = tmp_path_factory.mktemp(f"run{run}")
        subprocess.run(
            [sys.executable, str(DOCS / "figures" / "all.py"), str(folder)],
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": str(ROOT), "PYTHONHASHSEED": str(run)},
            check=True,
            capture_output=True,
        )
        folders.append(folder)
    return folders


@pytest.mark.slow
def test_figures_are_drawn_by_one_command_and_each_time_alike(figures):
    first, second = figures
    drawn = {path.name: path.read_bytes() for path in first.iterdir()}
    assert drawn == {path.name: path.read_bytes() for path in second.iterdir()}
    assert set(drawn) == {path.name for path in (DOCS / "images").glob("concept-*")}


def test_every_figure_is_shown_on_a_page_with_words_for_those_who_do_not_see_it():
    text = " ".join(" ".join(page.read_text().split()) for page in PAGES)
    for figure in (DOCS / "images").glob("concept-*"):
        shown = re.findall(rf"!\[([^\]]+)\]\((?:\.\./)?images/{figure.name}\)", text)
        assert shown, figure.name
        assert all(len(words) > 40 for words in shown)
