"""Every way to decode with this library evicts, with whatever transformers is installed.

An upgrade once switched a policy off without a word. These tests, run on the oldest, the pinned and
the newest transformers, fail if a frontend decodes and nothing is dropped.
"""

import json
import warnings
from pathlib import Path

import pytest
from typer.testing import CliRunner

import skipkv
from skipkv import Completion, Engine, presets, tiny
from skipkv.cli.app import app

BUDGET, INTERVAL = 100, 16
QUESTION = tiny.problems(1)[0].question


def expect_evicted(peak_entries: int, events: int, evicted: int) -> None:
    assert peak_entries == BUDGET + INTERVAL
    assert events > 0
    assert evicted > 0


@pytest.fixture(autouse=True)
def no_warnings() -> object:
    """A deprecated name is how the last upgrade began."""
    with warnings.catch_warnings():
        warnings.filterwarnings("error", category=FutureWarning, module="transformers")
        yield


@pytest.mark.parametrize("streamed", [False, True])
def test_the_engine_evicts(streamed: bool) -> None:
    engine = Engine(*tiny.load(device="cpu"), presets.rkv(BUDGET, interval=INTERVAL))
    chat = [{"role": "user", "content": QUESTION}]
    done: Completion | None
    if streamed:
        *_, last = engine.stream([chat], max_new_tokens=120)
        done = last.completion
    else:
        [done] = engine.generate([chat], max_new_tokens=120)
    assert done is not None
    expect_evicted(done.stats.peak_entries, done.stats.events, done.stats.evicted)


def test_attach_evicts() -> None:
    model, tokenizer = tiny.load(device="cpu")
    inputs = tokenizer.apply_chat_template(
        [{"role": "user", "content": QUESTION}],
        add_generation_prompt=True,
        return_tensors="pt",
        return_dict=True,
    )
    with skipkv.attach(model, presets.rkv(BUDGET, interval=INTERVAL)) as attached:
        model.generate(**inputs, max_new_tokens=120, do_sample=False)
    [stats] = attached.stats
    expect_evicted(stats.peak_entries, stats.events, stats.evicted)


def test_skipkv_generate_evicts() -> None:
    options = f"--policy rkv --budget {BUDGET} --interval {INTERVAL} -n 120 --device cpu --json"
    result = CliRunner().invoke(app, ["generate", "--model", "tiny", *options.split(), QUESTION])
    assert result.exit_code == 0, result.output
    told = json.loads(result.stdout)
    expect_evicted(told["peak_entries"], told["events"], told["evicted"])


def test_skipkv_eval_evicts(tmp_path: Path) -> None:
    options = f"--policies rkv --budgets {BUDGET} --interval {INTERVAL} --limit 2 --device cpu"
    options += f" --max-new-tokens 200 --output {tmp_path / 'run'}"
    result = CliRunner().invoke(app, ["eval", "--model", "tiny", *options.split()])
    assert result.exit_code == 0, result.output
    records = [
        json.loads(line)
        for file in sorted((tmp_path / "run").rglob("*.jsonl"))
        for line in file.read_text().splitlines()
    ]
    policies = [r for r in records if r["policy"] != "full"]
    assert len(policies) == 2
    for record in policies:
        expect_evicted(record["peak_entries"], record["events"], record["evicted"])
