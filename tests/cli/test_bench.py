"""`skipkv bench`: what it refuses, and a run of it."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from skipkv._runs import read_lines
from skipkv.benchmark import Bench, Measurement
from skipkv.cli.app import app

TOKENS = [
    *("--new-tokens", "6", "--prompt-tokens", "10", "--interval", "4", "--budgets", "16"),
    *("--batch-sizes", "1,2", "--repeats", "1", "--threads", "1", "--device", "cpu"),
]


def bench(*arguments: str) -> Result:
    return CliRunner().invoke(app, ["bench", *arguments])


def test_a_run_on_tiny_prints_tables_and_leaves_them_with_plots(tmp_path: Path) -> None:
    result = bench(*TOKENS, "-p", "full,skipkv", "-o", str(tmp_path))
    assert result.exit_code == 0, result.output
    for heading in ("| subject | budget | latency s, batch 1 |", "cost / floor", "peak MB"):
        assert heading in result.stdout
    assert (tmp_path / "summary.md").read_text() in result.stdout
    rows = json.loads((tmp_path / "summary.json").read_text())["rows"]
    assert {row["subject"] for row in rows} == {
        "floor", "generate_dynamic", "generate_static", "full", "skipkv",
    }  # fmt: skip
    [note] = {row["note"] for row in rows if row["subject"] == "skipkv"}
    assert "threshold=0.7, vector=steering.safetensors" in note
    for plot in ("throughput", "memory", "crossover"):
        assert (tmp_path / f"{plot}.png").stat().st_size > 5000


def test_random_weights_need_no_model(tmp_path: Path) -> None:
    config = tmp_path / "c.json"
    config.write_text(
        json.dumps(
            {
                "model_type": "llama",
                "hidden_size": 32,
                "intermediate_size": 64,
                "num_attention_heads": 2,
                "num_hidden_layers": 1,
                "num_key_value_heads": 1,
                "vocab_size": 320,
            }
        )
    )
    out = tmp_path / "out"
    result = bench(
        *TOKENS, "-m", f"random:{config}", "-p", "rkv", "--baselines", "none", "-o", str(out),
        "--plots", "none",
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    assert [m.subject for m in read_lines(out / "records.jsonl", Measurement)[0]] == ["rkv"] * 2
    assert not list(out.glob("*.png"))


def test_a_profile_measures_no_rounds(tmp_path: Path) -> None:
    result = bench(*TOKENS, "-p", "rkv", "--profile", "-o", str(tmp_path / "out"))
    assert result.exit_code == 0, result.output
    assert "| attention |" in result.stdout
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--baselines", "nonsense"], "No baseline is called 'nonsense'"),
        (["--baselines", "kvpress"], "needs --kvpress-python PATH"),
        (["--kvpress-python", "/no/such/python"], "--kvpress-python /no/such/python"),
        (["-p", "nonsense"], "No preset is called 'nonsense'"),
        (["--budgets", "x"], "--budgets x must be whole numbers"),
        (["--budgets", "4"], "must exceed the window"),
        (["--batch-sizes", "0"], "must hold numbers from 1 on"),
        (["--plots", "gif"], "--plots gif must be png, svg or none"),
        (["--dtype", "float3"], "dtype float3"),
        (["-m", "random:/no/such.json"], "No model config at '/no/such.json'"),
    ],
)
def test_what_cannot_be_is_refused_in_one_line_before_any_work(
    arguments: list[str], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Bench, "run", None)
    result = bench(*arguments, "-o", str(tmp_path / "out"))
    assert result.exit_code == 2
    assert message in result.stderr
    assert result.stderr.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_a_subject_that_fails_is_told_and_the_exit_code_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object, **__: object) -> None:
        raise ValueError("broken")

    monkeypatch.setattr("skipkv.benchmark.subjects.run_floor", broken)
    result = bench(*TOKENS, "-p", "streaming_llm", "--baselines", "floor", "-o", str(tmp_path))
    assert result.exit_code == 1
    assert "floor at 16, batch 1: error: ValueError" in result.stderr
    assert "| floor | 16 | failed | failed |" in result.stdout


def test_ctrl_c_says_how_to_go_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Bench, "_measure", interrupt)
    result = bench(*TOKENS, "-p", "streaming_llm", "-o", str(tmp_path))
    assert result.exit_code == 130
    assert "The same command goes on from there" in result.stderr
