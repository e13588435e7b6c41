"""`skipkv policies`, `--version` and `python -m skipkv`."""

import json
import subprocess
import sys

import skipkv
from skipkv.presets import NAMES


def test_every_preset_is_shown_with_its_summary_and_the_parts_at_work(run):
    result = run("policies")
    assert result.exit_code == 0
    blocks = dict(block.split(":", 1) for block in result.stdout.split("\n\n"))
    assert tuple(blocks) == NAMES
    assert "scorer    0.1 * WindowAttention(" in blocks["rkv"]
    assert "budget    Budget(tokens=1024," in blocks["rkv"]
    assert "segmenter" not in blocks["rkv"]
    assert "segmenter" in blocks["skipkv"]
    assert "budget    None" in blocks["full"]
    assert "scorer" not in blocks["full"]
    assert "needs     Needs(queries=8)\n  costs     8 queries per query head" in blocks["rkv"]
    fused = "  costs     4 bytes per entry\n  costs     the queries of 16 steps"
    assert fused in blocks["h2o"]
    assert fused in blocks["raas"]
    assert "fused" not in blocks["gkv"]
    assert blocks["keydiff"].rstrip().endswith("costs     nothing")


def test_json_has_every_part_of_every_preset(run):
    lines = [json.loads(line) for line in run("policies", "--json").stdout.splitlines()]
    assert tuple(line["name"] for line in lines) == NAMES
    parts = {"budget", "scorer", "evictor", "segmenter", "steerer", "scheduler"}
    for line in lines:
        assert parts <= set(line)
        assert line["summary"].endswith(".")
        assert line["needs"].startswith("Needs(")
        assert line["costs"]


def test_the_version_is_printed(run):
    assert run("--version").stdout == f"skipkv {skipkv.__version__}\n"


def test_without_a_command_help_is_shown(run):
    assert "generate" in run().output
    assert "Usage" in run("-h").stdout


def test_the_module_is_the_command():
    process = subprocess.run(
        [sys.executable, "-m", "skipkv", "--version"], capture_output=True, text=True, check=True
    )
    assert process.stdout == f"skipkv {skipkv.__version__}\n"
