"""What the README starts with a command runs: the demo and the benchmark of all presets."""

import json
import re
import runpy
import sys
from pathlib import Path

import pytest

from skipkv import presets, tiny

ROOT = Path(__file__).parents[1]
SHOWN = ["full", *presets.BUDGETED]


def test_the_demo_shows_every_preset_within_its_budget(capsys):
    runpy.run_path(str(ROOT / "examples" / "demo.py"), run_name="__main__")
    rows = re.findall(r"^(\w+) +(\d+) +\d+ +\d+ +\d+ KB +\d+$", capsys.readouterr().out, re.M)
    assert [name for name, _ in rows] == SHOWN
    assert all(int(entries) <= 64 + 32 for name, entries in rows if name != "full")


def test_the_benchmark_of_presets_has_a_row_for_each(capsys, tmp_path, monkeypatch):
    prompts = tmp_path / "prompts.jsonl"
    prompts.write_text("".join(json.dumps({"prompt": p.question}) + "\n" for p in tiny.problems(2)))
    options = ["--new-tokens", "20", "--budget", "40", "--interval", "8"]
    script = str(ROOT / "benchmarks" / "presets.py")
    monkeypatch.setattr(sys, "argv", [script, "--model", "tiny", "--input", str(prompts), *options])
    with pytest.raises(SystemExit) as ended:
        runpy.run_path(script, run_name="__main__")
    assert not ended.value.code
    rows = re.findall(r"^\| (\w+) \| [-\d]+ \| [\d.]+ \|", capsys.readouterr().out, re.M)
    assert rows == SHOWN
