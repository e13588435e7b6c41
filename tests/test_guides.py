"""What the guides show is so: the first tutorial as copied, quoted errors, numbers, laws."""

import re
import runpy
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from sybil import Sybil
from sybil.parsers.markdown import PythonCodeBlockParser
from typer.testing import CliRunner

from skipkv import Peak, Policy, presets
from skipkv.cli.app import app
from skipkv.evictors import TopK
from skipkv.schedulers import LengthGrouped
from skipkv.scorers import Recency
from skipkv.segmenters import Newline
from skipkv.steerers import NoSteering
from skipkv.testing import laws_of

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
FENCE = re.compile(r"^```(\w+)(?: title=\"(.+?)\")?\n(.*?)^```$", re.DOTALL | re.MULTILINE)


def _run(command: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A shell command of the tutorial, where it can be without a process of its own."""
    name, *arguments = shlex.split(command)
    if name == "pytest":
        done = subprocess.run(
            [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", *arguments],
            env={"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "PATH": ""},
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        print(done.stdout)
    elif name == "python":
        runpy.run_path(arguments[0])
    elif name == "export":
        monkeypatch.setenv(*arguments[0].split("="))
    else:
        assert name == "skipkv"
        monkeypatch.syspath_prepend(".")
        done = CliRunner().invoke(app, arguments)
        assert done.exit_code == 0, done.output
        print(done.output)


@pytest.mark.slow  # its blocks run with those of the other pages too
def test_whoever_copies_the_first_tutorial_ends_with_a_passing_test_and_a_generation(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    page = (DOCS / "tutorials" / "your-own-scorer.md").read_text()
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    said = {}
    try:
        for language, title, content in FENCE.findall(page.partition("## Write it")[2]):
            if title:
                Path(title).write_text(content)
            for command in content.splitlines() if language == "bash" else ():
                capsys.readouterr()
                _run(command, monkeypatch)
                said[shlex.split(command)[0]] = capsys.readouterr().out
    finally:
        sys.modules.pop("value_norm", None)
    assert "test_law[precision] PASSED" in said["pytest"]
    assert r"The code is \boxed{" in said["python"]
    assert re.search(r"value norm: \d+ of 32 problems right", said["python"])
    assert "after 257 tokens 250 kept" in said["python"]
    assert r"\boxed{27}" in said["skipkv"]


def test_every_output_quoted_in_troubleshooting_is_what_the_block_above_it_prints(
    capsys: pytest.CaptureFixture[str],
) -> None:
    path = DOCS / "troubleshooting.md"
    examples = list(Sybil(parsers=[PythonCodeBlockParser()]).parse(path).examples())
    blocks = [b for b in FENCE.findall(path.read_text()) if b[0] in ("python", "text")]
    assert sum(language == "python" for language, _, _ in blocks) == len(examples)
    checked = 0
    for number, (language, _, _) in enumerate(blocks):
        if language == "text":
            continue
        example = examples.pop(0)
        quoted = blocks[number + 1][2] if number + 1 < len(blocks) else ""
        is_quoted = bool(quoted) and blocks[number + 1][0] == "text"
        if number and not is_quoted:
            continue  # test_docs.py runs it; nothing below needs what it defines
        capsys.readouterr()
        example.evaluate()
        if is_quoted:
            checked += 1
            assert capsys.readouterr().out.split() == quoted.split()
    assert checked > 10


def _table(page: str, heading: str) -> list[list[str]]:
    """The rows below the first table's head in a section."""
    section = (DOCS / page).read_text().partition(f"## {heading}\n")[2]
    rows = [line for line in section.splitlines() if line.startswith("|")]
    cells = [[cell.strip() for cell in row.strip("|").split("|")] for row in rows]
    return cells[2:]


def test_the_accuracies_for_choosing_are_those_of_the_results() -> None:
    measured: dict[tuple[str, str], str] = {}
    for row in re.findall(
        r"^\| ([^|]+) \| \d+ \| (\d+) \| ([\d.]+) \[", (DOCS / "results.md").read_text(), re.M
    ):
        measured[row[0], row[1]] = row[2]
    for policy, _, *cells in _table("results.md", "The members"):
        for share, cell in zip(("20", "30", "40", "50", "60", "75"), cells, strict=False):
            measured.setdefault((policy.strip("`"), share), cell.partition(" ")[0])
    called = {
        "`skipkv` 0.95": "skipkv",
        "`skipkv` 0.7": "rkv + sentences",
        "`rkv`, steered": "rkv + steering",
        "`skipkv` 0.7, steered": "skipkv (both)",
    }
    shares = ["20", "30", "40", "50", "60", "75", "85"]
    rows = _table("choosing.md", "What eviction costs")[:11]
    for policy, *accuracies in rows:
        name = called.get(policy, policy.strip("`"))
        found = [measured.get((name, share)) for share in shares]
        assert accuracies == ["-" if f is None else f"{float(f):.0f}" for f in found], policy


def test_the_table_of_laws_is_complete() -> None:
    parts = {
        "scorer": Recency(),
        "evictor": TopK(),
        "segmenter": Newline(),
        "steerer": NoSteering(),
        "scheduler": LengthGrouped(batch_size=2),
        "policy": Policy(budget=presets.rkv(64).budget),
        "statistic": Peak(),
    }
    laws = [(law.name, law.says) for part in parts.values() for law in laws_of(part)]
    rows = _table("testing.md", "The laws")[: len(laws)]
    assert [(law.strip("`"), says) for _, law, says in rows] == laws
    assert [part for part, _, _ in rows if part] == list(parts)
