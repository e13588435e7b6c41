"""Examples run as commands, and what they print means something; what pages show does evict."""

import json
import re
import runpy
import shlex
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from skipkv.cli.app import app

ROOT = Path(__file__).parents[1]


@pytest.fixture
def example(capsys, monkeypatch):
    """Runs an example as a command and returns what it printed."""

    def run(name, *options):
        script = str(ROOT / "examples" / f"{name}.py")
        monkeypatch.setattr(sys, "argv", [script, *options])
        with pytest.raises(SystemExit) as ended:
            runpy.run_path(script, run_name="__main__")
        assert not ended.value.code
        return capsys.readouterr().out

    return run


def test_the_demo_shows_what_each_policy_saves_and_costs_and_what_one_kept(example):
    printed = example("demo", "--problems", "1")  # the first alone tells policies apart
    row = r"^(\w+) +(\d)/1 +(\d+)(x?) +(\d+) +(\d+) KB = +(\d+)% of full$"
    rows = {name: rest for name, *rest in re.findall(row, printed, re.M)}
    shown = ["random", "streaming_llm", "h2o", "tova", "snapkv", "rkv", "skipkv"]
    assert list(rows) == ["full", *shown]
    assert {count + mark for count, _, mark, *_ in rows.values()} == {"1", "0x"}
    assert rows["full"][0] == rows["skipkv"][0] == "1"
    assert rows["streaming_llm"][0] == rows["snapkv"][0] == "0"
    assert int(rows.pop("full")[3]) > 300
    assert {int(entries) for _, _, _, entries, *_ in rows.values()} == {220 + 16}  # all evicted
    assert all(int(share) < 80 for *_, share in rows.values())
    shares = {int(share) for share in re.findall(r"^ +(\d+)%  \S", printed, re.M)}
    assert {0, 100} < shares
    assert max(map(len, printed.splitlines())) <= 80
    assert len(printed.splitlines()) <= 45


@pytest.mark.slow
def test_the_custom_scorer_keeps_the_laws_and_decodes_at_the_same_budget_as_the_others(example):
    printed = example("custom_scorer", "--problems", "2", "--budget", "180")
    assert re.search(r"^ValueNovelty keeps \d+ laws", printed, re.M)
    rows = re.findall(r"^(\S.*?) +(\d+)/2 +(\d+)$", printed, re.M)
    solved = {name: int(count) for name, count, _ in rows}
    assert solved["no eviction"] == 2
    assert {"ValueNovelty", "attention + ValueNovelty"} < set(solved)
    assert solved["Recency"] == 0
    assert all(int(most) == 180 + 16 for name, _, most in rows if name != "no eviction")


def test_heads_have_sinks_of_their_own_number(example):
    printed = example("sinks_per_head", "--most", "5")
    rows = re.findall(r"^layer \d +(\d+) #* +(\d+) #* *$", printed, re.M)
    counts = [(int(one), int(other)) for one, other in rows]
    assert len(counts) == 4
    assert any(one != other for one, other in counts)
    assert max(map(max, counts)) <= 5


def test_rkv_from_parts_keeps_what_the_preset_keeps_and_another_term_does_not(example):
    printed = example("rkv_from_parts", "--problems", "2", "--budget", "100")
    rows = dict(re.findall(r"^(\w.*?)  +(\d/2 +\d/2) ", printed, re.M))
    assert rows["from parts"].split() == rows["presets.rkv"].split() == ["2/2", "2/2"]
    assert rows["one term exchanged"].split()[1] == "0/2"


def test_the_sweep_has_a_row_for_every_threshold_and_goes_on_where_it_stood(example, tmp_path):
    folder, plot = tmp_path / "sweep", tmp_path / "plot.png"
    options = ["--problems", "2", "--folder", str(folder)]
    first = example("threshold_sweep", *options, "--thresholds", "0.6")
    measured = (folder / "records.jsonl").read_text()
    assert len(measured.splitlines()) == 4  # full cache and one threshold
    more = ["--thresholds", "0.6,0.9", "--plot", str(plot)]
    second = example("threshold_sweep", *options, *more)
    assert (folder / "records.jsonl").read_text().startswith(measured)
    interval = r"[\d.]+ \[[\d.]+, [\d.]+\]"
    rows = dict(re.findall(rf"^(full cache|0\.\d) +({interval})", second, re.M))
    assert list(rows) == ["full cache", "0.6", "0.9"]
    assert rows["full cache"].startswith("100.0 [")
    assert rows["0.6"] in first
    assert plot.read_bytes().startswith(b"\x89PNG")


def test_streamed_lines_come_mixed_and_short_prompts_first(example):
    printed = example("streaming", "--stop", "k=")
    said = re.findall(r"^(\d) [|=] (.*)$", printed, re.M)
    begun = list(dict.fromkeys(number for number, _ in said))
    assert begun == ["0", "2", "1"]  # the second prompt is longer than the third
    assert len({number for number, _ in said[:6]}) == 2
    assert not any("k=" in line for _, line in said)
    assert printed.count("stop_string)") + printed.count("eos)") == 3


def test_ageing_lets_a_long_prompt_come_in_its_turn(example):
    printed = example("streaming", "--ageing", "100", "--stop", "=")
    assert re.findall(r"^(\d) =", printed, re.M) == ["0", "1", "2"]


def test_the_generate_command_of_the_readme_evicts_and_answers_as_the_readme_says():
    readme = (ROOT / "README.md").read_text()
    [command] = re.findall(r"^skipkv (generate --model tiny .*)$", readme, re.M)
    done = CliRunner().invoke(app, [*shlex.split(command), "--json"])
    completion = json.loads(done.stdout)
    assert completion["events"] > 0
    said = re.search(
        r"The right answer is (\d+)\. The trace has (\d+) tokens.*?than (\d+)", readme, re.S
    )
    tokens = completion["prompt_tokens"] + completion["new_tokens"]
    assert [int(number) for number in said.groups()] == [27, tokens, completion["peak_entries"]]
    assert r"\boxed{27}" in completion["text"]


def test_what_pages_assert_of_the_cache_fails_where_nothing_was_evicted():
    pages = [*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")]
    found = [re.findall(r"^ *assert .*peak_entries.*$", page.read_text(), re.M) for page in pages]
    asserted = [line for lines in found for line in lines]
    assert asserted
    assert not [line for line in asserted if "==" not in line]  # a bound from above holds for none
