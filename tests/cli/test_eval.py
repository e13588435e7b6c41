"""`skipkv eval`, on a toy model in a folder."""

import json
import re
import sys
from pathlib import Path

import pytest

from skipkv.cli import exits
from skipkv.testing import toy_model, toy_tokenizer

# Without instruction: the toy knows no word of the papers'.
COMMAND = (
    "eval", "--data", "sums.jsonl", "--limit", 2, "--max-new-tokens", 12, "--interval", 4,
    "--instruction", "",
)  # fmt: skip


@pytest.fixture(scope="module")
def toy(tmp_path_factory) -> Path:
    """A model folder, whose tokenizer knows the papers' instruction letter by letter."""
    folder = tmp_path_factory.mktemp("model")
    toy_model().save_pretrained(folder)
    toy_tokenizer().save_pretrained(folder)
    return folder


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    """A working directory with a data set."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    rows = [{"question": f"one plus {i}", "answer": i + 1} for i in range(4)]
    Path("sums.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


@pytest.fixture
def loads(monkeypatch):
    """Names of the models that were loaded."""
    names = []
    monkeypatch.setattr("skipkv.models.load", lambda name, **_: names.append(name))
    return names


def test_the_summary_is_printed_and_everything_is_in_the_folder(toy, run, monkeypatch):
    result = run(*COMMAND, "--model", toy, "--policies", "rkv", "--budgets", "12", "-o", "out")
    assert result.exit_code == 0, result.output
    assert result.stdout == Path("out/summary.md").read_text() + "\n"
    assert "skipkv" not in result.stderr  # transformers shows how it loads, and that is all
    assert len(Path("out/records.jsonl").read_text().splitlines()) == 4
    again = run(*COMMAND, "--model", toy, "--policies", "rkv", "--budgets", "12", "-o", "out")
    assert again.stdout == result.stdout
    redone = run("eval", "--summarize", "out", "--plot-format", "svg")
    assert redone.stdout == result.stdout
    assert Path("out/accuracy-sums.svg").exists()


def test_options_may_come_from_a_file_and_those_of_the_command_line_replace_them(toy, run):
    Path("sweep.yaml").write_text(
        f"model: {toy}\ndata: sums.jsonl\nlimit: 2\nmax-new-tokens: 12\ninterval: 4\n"
        "instruction: ''\npolicies: [rkv, h2o]\nbudgets: [12, 13]\nno-texts: true\noutput: given\n"
    )
    result = run("eval", "--config", "sweep.yaml", "--budgets", "12")
    assert result.exit_code == 0, result.output
    strict = run("eval", "--summarize", "given", "--strict")
    assert (strict.exit_code, "Cut off: 100% of full" in strict.stdout) == (exits.FAILED, True)
    records = [json.loads(line) for line in Path("given/records.jsonl").read_text().splitlines()]
    assert {(r["policy"], r["asked"]) for r in records} == {
        ("full", None),
        ("rkv", "12"),
        ("h2o", "12"),
    }
    assert all(r["text"] is None for r in records)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("modle: tiny", "there is no option --modle. There are: answer-field"),
        ("- tiny", "must hold options by name"),
        ("a: [", "is not YAML"),
        ("limit: [1, 2]", "limit must be one value"),
        ("instruction:", "instruction has no value. Leave the line out for its default"),
        ("output: ~", "output has no value"),
        ("policies: [rkv, ]\nbudgets: [96, null]", "budgets has no value"),
        ("no-texts: 'false'", "no-texts must be true or false, got 'false'"),
        ("texts: true\nno-texts: true", "no-texts says again what another line says. Keep one"),
        ("seed: 1\npolicies: rkv\nseed: 2", "seed says again what another line says"),
    ],
)
def test_a_file_of_options_that_cannot_be_used_says_why(run, text, message):
    Path("sweep.yaml").write_text(text)
    result = run("eval", "--config", "sweep.yaml")
    assert result.exit_code == exits.BAD_INPUT
    assert message in result.stderr
    assert "No such file" in run("eval", "--config", "nowhere.yaml").stderr


def test_shards_are_joined_to_what_one_command_writes(toy, run):
    common = (*COMMAND, "--model", toy, "--policies", "rkv", "--budgets", "12")
    for shard in ("0/2", "1/2"):
        result = run(*common, "-o", "out", "--shard", shard)
        assert result.stdout == (
            f"Shard {shard} is done. After all others: skipkv eval --merge out\n"
        )
    assert "`skipkv eval --merge out` joins" in run("eval", "--summarize", "out").stderr
    merged = run("eval", "--merge", "out", "--plot-format", "svg")
    assert merged.exit_code == 0
    whole = run(*common, "-o", "whole")
    speed = re.compile(r"\| [\d.]+ \| \d+ \|$", re.M)  # and memory, which depends on neighbours
    assert speed.sub("", merged.stdout) == speed.sub("", whole.stdout)
    waits = run(
        *COMMAND, "--model", toy, "--budgets", "99%", "-p", "h2o", "-o", "p", "--shard", "1/2"
    )
    assert "Shard 1/2 waits for the full cache of other shards" in waits.stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "Name a model: --model tiny"),
        (("-m", "x", "--policies", "nonsense"), "No preset is called 'nonsense'"),
        (("-m", "x", "--budgets", "4"), "must exceed the window"),
        (("-m", "x", "--budgets", "lots"), "'lots' is neither"),
        (("-m", "x", "--data", "nonsense"), "No data set is called 'nonsense'"),
        (("-m", "x", "--samples", "2"), "Sampling(n=2, temperature=0)"),
        (("-m", "x", "--top-k", "5"), "Sampling(top_k=5, temperature=0)"),
        (("-m", "x", "--dtype", "float99"), "dtype float99 is not a torch dtype"),
        (("-m", "x", "--plot-format", "bmp"), "--plot-format bmp must be png or svg"),
        (("-m", "x", "--data", "a/b=sums.jsonl"), "must fit into a file's name"),
        (("-m", "x", "--output", "sums.jsonl"), "sums.jsonl is a file"),
        (("--summarize", "nowhere"), "nowhere holds no sweep"),
        (("--merge", "nowhere"), "nowhere holds no shards"),
        (("-m", "x", "-d", "rambler", "--temperature", "1"), "sums 1, rambler 0.95. Give --top-p"),
        (("-m", "x", "-d", "rambler"), "sums 0, rambler 0.6. Give --temperature"),
        (("-m", "x", "-p", " , "), "--policies names no policy"),
        (("-m", "x", "--shard", "2/2"), "counted from 0"),
        (("-m", "x", "--shard", "0/2", "--trace-failures", "1"), "leave out --shard"),
        (("--summarize", "x", "--trace-failures", "1"), "leave out --shard, --merge and --summ"),
        (("--merge", "x", "--shard", "0/2"), "joins the folders of shards and decodes nothing"),
        (("-m", "x", "--shard", "2"), "must be written I/N"),
        (("-m", "x", "--shard", "0/9"), "sums has only 2 problems"),
        (("-m", "x", "--engine", "spark"), "--engine spark must be ray"),
        (("-m", "x", "--workers", "2"), "--workers needs --engine ray"),
        (("-m", "x", "--engine", "ray", "--shard", "0/2"), "leave out --shard"),
    ],
)
def test_bad_input_is_one_line_on_stderr_before_the_model_is_loaded(run, loads, arguments, message):
    result = run(*COMMAND, *arguments)
    assert result.exit_code == exits.BAD_INPUT
    assert loads == []
    assert result.stdout == ""
    assert result.stderr.startswith("skipkv: error: ")
    assert result.stderr.count("\n") == 1
    assert message in result.stderr


def test_a_data_set_that_is_sampled_by_default_may_be_decoded_greedily(run, loads):
    command = ("eval", "-d", "rambler", "-m", "x", "-b", "96", "-p", "rkv", "-o", "out")
    run(*command, "--limit", 1, "--temperature", 0)
    assert loads == ["x"]  # so far it got; top-p 0.95 goes with the temperature


def test_a_file_whose_name_holds_a_comma_is_one_file(run, loads):
    Path("sums.jsonl").rename("sums, new.jsonl")
    command = ("eval", "-m", "x", "-b", "96", "-p", "rkv", "-o", "out")
    run(*command, "--data", "sums, new.jsonl")
    assert loads == ["x"]


def test_an_empty_name_of_data_is_said(run):
    result = run("eval", "-m", "x", "--data", ",")
    assert (result.exit_code, "--data names no data set" in result.stderr) == (2, True)


def test_without_ray_the_error_says_which_extra_brings_it(run, loads, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    result = run(*COMMAND, "-m", "x", "--engine", "ray")
    assert result.exit_code == exits.BAD_INPUT
    assert loads == []
    assert "It comes with the extra `ray`: pip install 'skipkv[ray]'." in result.stderr


def test_a_folder_with_other_settings_is_refused_before_the_model_is_loaded(toy, run, monkeypatch):
    policy = ("--policies", "rkv", "--budgets", "12", "-o", "out")
    assert run(*COMMAND, "--model", toy, *policy).exit_code == 0
    names = []
    monkeypatch.setattr("skipkv.models.load", lambda name, **_: names.append(name))
    result = run(*COMMAND, "--model", toy, *policy, "--seed", 1)
    assert (result.exit_code, names) == (exits.BAD_INPUT, [])
    assert "sampling seed was 0 and is 1" in result.stderr


def test_a_folder_of_another_version_goes_on_with_same_policies(toy, run):
    command = (*COMMAND, "--model", toy, "--policies", "rkv", "--budgets", "12", "-o", "out")
    for more, then in (((), "--summarize"), (("--shard", "0/1"), "--merge")):
        assert run(*command, *more).exit_code == 0
        for path in Path("out").rglob("run.json"):
            path.write_text(path.read_text().replace(", pool=7", ""))
        refused = run(*command, *more)
        assert refused.exit_code == exits.BAD_INPUT
        assert "WindowAttention has gained pool=7. Where both do the same, --same" in refused.stderr
        assert run(*command, *more, "--same-policies").exit_code == 0
        assert "Vouched for: sums: rkv at 12 had 2 samples" in run("eval", then, "out").stdout


def test_ctrl_c_says_how_to_go_on(toy, run):
    Path("interrupts.py").write_text(
        "from skipkv import Budget, Policy\n"
        "class Interrupts:\n"
        "    def score(self, view):\n"
        "        raise KeyboardInterrupt\n"
        "def policy(budget, interval):\n"
        "    return Policy(budget=Budget(tokens=budget, interval=interval), scorer=Interrupts())\n"
    )
    policy = ("--policies", "interrupts:policy", "--budgets", "12", "--interval", "4")
    result = run(*COMMAND, "--model", toy, *policy, "-o", "out")
    assert result.exit_code == exits.INTERRUPTED
    assert result.stdout == ""
    assert "interrupted; what is done is in out. The same command goes on" in result.stderr


def test_a_broken_part_ends_in_another_exit_code(toy, run):
    Path("scores_nan.py").write_text(
        "import torch\nfrom skipkv import Budget, Policy\n"
        "class Nan:\n"
        "    def score(self, view):\n"
        "        return torch.full(view.positions.shape, float('nan'))\n"
        "def policy(budget, interval):\n"
        "    return Policy(budget=Budget(tokens=budget, interval=interval), scorer=Nan())\n"
    )
    command = (
        *COMMAND, "--model", toy, "--policies", "scores_nan:policy", "--budgets", "12", "-o", "out"
    )  # fmt: skip
    for more, decoded in (((), 2), ((), 0), (("--retry-failed",), 2)):
        result = run(*command, *more)
        assert result.exit_code == exits.FAILED
        assert "Failed: 2 samples of scores_nan:policy at 12 ended with" in result.stdout
        assert result.stderr.count("NaN") == decoded
