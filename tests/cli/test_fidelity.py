"""`skipkv fidelity`: a run of it, and what it refuses."""

import json
from pathlib import Path

import pytest

from skipkv import tiny

OPTIONS = ("--interval", "8", "--prompt-tokens", "16", "--max-tokens", "80", "--device", "cpu")


@pytest.fixture
def texts(tmp_path: Path) -> Path:
    file = tmp_path / "texts.jsonl"
    problems = tiny.problems(3)
    lines = [{"text": f"{p.question} {p.question} {p.question}"} for p in problems]
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return file


def test_a_run_prints_a_table_goes_on_and_leaves_a_plot(run, texts, tmp_path) -> None:
    output = tmp_path / "out"
    asked = (*OPTIONS, "-m", "tiny", "--texts", texts, "-o", output)
    result = run("fidelity", *asked, "-p", "streaming_llm,rkv", "-b", "30,50%")
    assert result.exit_code == 0, result.output
    assert "| rkv | 30 | 3 |" in result.stdout
    assert "| streaming_llm | 40 | 3 |" in result.stdout
    assert (output / "summary.md").read_text() in result.stdout
    assert (output / "fidelity.png").stat().st_size > 5000
    again = run("fidelity", *asked, "-p", "random", "-b", "30")
    assert again.exit_code == 0, again.output
    assert "| random | 30 | 3 |" in again.stdout
    assert "| rkv | 30 | 3 |" in again.stdout


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("-b", "x"), "--budgets x must be whole numbers"),
        (("-b", "150%"), "--budgets 150% must be whole numbers"),
        (("-b", "4"), "must exceed the window"),
        (("-b", "75"), "No text exceeds the budget"),
        (("-p", "nonsense"), "No preset is called 'nonsense'"),
        (("--field", "question"), "question"),
        (("--texts", "none.txt"), "error: none.txt: No such file"),
        (("--max-tokens", "10"), "must exceed the prompt's 16 tokens"),
    ],
)
def test_what_it_cannot_use_is_one_line(run, texts, tmp_path, options, message) -> None:
    base = (*OPTIONS, "-m", "tiny", "-p", "rkv", "-b", "30", "--texts", texts)
    result = run("fidelity", *base, "-o", tmp_path / "out", *options)
    assert result.exit_code == 2
    assert message in " ".join(result.stderr.split())
    assert not (tmp_path / "out").exists()
