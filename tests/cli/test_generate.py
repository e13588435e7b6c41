"""`skipkv generate`, with a fake in the engine's place."""

import json
import os
import subprocess
import sys

import attrs
import pytest

from skipkv.cli import exits
from skipkv.errors import InputError
from skipkv.presets import rkv
from skipkv.testing import toy_model

COMMAND = ("generate", "--model", "some/model", "--policy", "rkv", "--budget", "64")


def test_results_go_to_stdout_and_statistics_to_stderr(engine, run):
    result = run(*COMMAND, "hello")
    assert result.exit_code == 0
    assert result.stdout == "answer to hello\n"
    assert result.stderr == (
        "prompt 1, sample 1: 3 + 5 tokens in 0.5 s, 10.0/s (eos); 2 events, 7 entries evicted; "
        "at most 4 entries held per KV head of 7 in a full cache (43% saved); 2.0 MB peak KV\n"
    )


def test_a_full_cache_saves_nothing(engine, run):
    prompt = "four more tokens for the fake"
    engine.stats = attrs.evolve(engine.stats, events=0, evicted=0, peak_entries=7)
    result = run(*COMMAND, prompt)
    assert "; at most 7 entries held per KV head, as in a full cache; " in result.stderr


def test_several_results_have_headings(engine, run):
    result = run(*COMMAND, "--temperature", 0.5, "--samples", 2, "a", "b")
    headings = [line for line in result.stdout.splitlines() if line.startswith("===")]
    assert headings == [
        f"=== prompt {p}, sample {s} ===" for p, s in [(1, 1), (1, 2), (2, 1), (2, 2)]
    ]


def test_json_prints_one_object_per_completion_and_nothing_else(engine, run):
    result = run(*COMMAND, "--json", "hello", "wörld")
    assert result.stderr == ""
    first, second = [json.loads(line) for line in result.stdout.splitlines()]
    assert first == {
        "index": 0,
        "sample": 0,
        "text": "answer to hello",
        "prompt_tokens": 3,
        "new_tokens": 5,
        "stop_reason": "eos",
        "error": None,
        "events": 2,
        "evicted": 7,
        "mean_entries": 3.5,
        "peak_entries": 4,
        "peak_kv_bytes": 2000000,
        "seconds": 0.5,
        "padding": 4,
    }
    assert second["text"] == "answer to wörld"


def test_everything_asked_for_reaches_the_engine(engine, run):
    run(
        *COMMAND, "--interval", 16, "--batch-size", 3, "--dtype", "float16", "--device", "cpu",
        "--max-new-tokens", 9, "--temperature", 0.6, "--top-p", 0.9, "--top-k", 40, "--samples", 2,
        "--seed", 7, "--stop", "END", "--stop", "\n\n", "hello",
    )  # fmt: skip
    assert engine.loaded == {
        "name": "some/model",
        "policy": rkv(64, interval=16),
        "batch_size": 3,
        "dtype": "float16",
        "device": "cpu",
        "trust_remote_code": False,
    }
    sampling = engine.asked.pop("sampling")
    assert engine.asked == {
        "prompts": ["hello"],
        "max_new_tokens": 9,
        "stop": ("END", "\n\n"),
        "progress": None,
        "observers": (),
    }
    assert (sampling.temperature, sampling.top_p, sampling.top_k) == (0.6, 0.9, 40)
    assert (sampling.n, sampling.seed) == (2, 7)


def test_the_models_generation_config_decides_where_no_sampling_is_asked_for(
    engine, run, monkeypatch
):
    run(*COMMAND, "hello")
    assert engine.asked["sampling"].greedy
    assert "Sampling(n=2, temperature=0)" in run(*COMMAND, "--samples", 2, "hello").stderr
    model = toy_model()
    model.generation_config.update(do_sample=True, temperature=0.6, top_p=0.95)
    monkeypatch.setattr(engine, "model", model)
    result = run(*COMMAND, "--samples", 2, "hello")
    sampling = engine.asked["sampling"]
    assert (sampling.temperature, sampling.top_p, sampling.n) == (0.6, 0.95, 2)
    assert "generation config asks: Sampling(temperature=0.6, top_p=0.95" in result.stderr
    run(*COMMAND, "--temperature", 0, "hello")
    assert engine.asked["sampling"].greedy


def test_prompts_are_piped_in_or_read_from_a_file(engine, run, tmp_path):
    run(*COMMAND, input="one\ntwo\n")
    assert engine.asked["prompts"] == ["one", "two"]
    (tmp_path / "in.jsonl").write_text('{"q": "three"}\n{"q": "four"}\n')
    run(*COMMAND, "--input", tmp_path / "in.jsonl", "--field", "q", "--limit", 1)
    assert engine.asked["prompts"] == ["three"]


MESSAGES = [{"role": "user", "content": "hi"}]


def test_top_p_without_a_temperature_is_refused_and_not_unused(engine, run):
    result = run(*COMMAND, "--top-p", 0.9, "hello")
    assert result.exit_code == 2
    assert "--top-p needs --temperature" in result.stderr
    assert engine.loaded is None


@pytest.mark.parametrize(
    ("template", "flags", "passed_on"),
    [
        ("{{ a }}", [], MESSAGES),
        ("{{ a }}", ["--chat"], MESSAGES),
        ("{{ a }}", ["--raw"], "hi"),
        (None, [], "hi"),
        (None, ["--raw"], "hi"),
    ],
)
def test_prompts_go_through_a_chat_template_where_there_is_one(
    engine, run, template, flags, passed_on
):
    engine.tokenizer.chat_template = template
    run(*COMMAND, *flags, "hi")
    assert engine.asked["prompts"] == [passed_on]


def test_a_chat_template_that_is_not_there_cannot_be_asked_for(engine, run):
    result = run(*COMMAND, "--chat", "hi")
    assert (result.exit_code, engine.asked) == (exits.BAD_INPUT, None)
    assert "no chat template. Use --raw" in result.stderr


@pytest.mark.parametrize(("template", "flags"), [("{{ a }}", ["--raw"]), (None, [])])
def test_messages_need_a_chat_template(engine, run, template, flags):
    engine.tokenizer.chat_template = template
    line = json.dumps({"prompt": MESSAGES})
    result = run(*COMMAND, *flags, "--input", "-", "--jsonl", input=line)
    assert result.exit_code == exits.BAD_INPUT
    assert "holds lists of messages, but" in result.stderr


def test_a_failed_completion_fails_the_command_after_all_others_were_printed(engine, run):
    result = run(*COMMAND, "--json", "fail", "hello")
    first, second = [json.loads(line) for line in result.stdout.splitlines()]
    assert result.exit_code == exits.FAILED
    assert (first["stop_reason"], first["error"]) == ("error", "Recency returned NaN. Fix it.")
    assert second["text"] == "answer to hello"
    result = run(*COMMAND, "fail")
    assert "skipkv: error: prompt 1, sample 1: Recency returned NaN. Fix it.\n" in result.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--input", "none.txt"), "error: none.txt: No such file or directory."),
        (("--policy", "nonsense", "hi"), "No preset is called 'nonsense'"),
        (("--policy", "nonsense:", "hi"), "malformed"),
        (("--budget", "4", "hi"), "Budget(tokens=4) must exceed"),
        (("--top-p", "2", "--temperature", "1", "hi"), "Sampling(top_p=2.0)"),
        (("--dtype", "float99", "hi"), "dtype float99 is not a torch dtype"),
        (("--device", "toaster", "hi"), "device toaster is unknown"),
        ((" ",), "argument is empty"),
    ],
)
def test_bad_input_is_one_line_on_stderr_before_the_model_is_loaded(
    engine, run, arguments, message
):
    result = run(*COMMAND, *arguments)
    assert result.exit_code == exits.BAD_INPUT
    assert engine.loaded is None
    assert result.stdout == ""
    assert result.stderr.startswith("skipkv: error: ")
    assert result.stderr.count("\n") == 1
    assert message in result.stderr


@pytest.mark.parametrize(
    "arguments",
    [
        ("generate", "hi"),
        (*COMMAND, "--limit", "0", "hi"),
        (*COMMAND, "--max-new-tokens", "0", "hi"),
        (*COMMAND, "--batch-size", "0", "hi"),
        (*COMMAND, "--no-such-option", "hi"),
    ],
)
def test_wrong_usage_has_the_same_exit_code(engine, run, arguments):
    result = run(*arguments)
    assert (result.exit_code, engine.loaded) == (exits.BAD_INPUT, None)


def test_debug_shows_where_an_error_came_from(engine, run):
    engine.refuse = InputError("Prompt 0 is too long.")
    assert "Traceback" not in run(*COMMAND, "hi").stderr
    result = run(*COMMAND, "--debug", "hi")
    assert result.exit_code == exits.BAD_INPUT
    assert "Traceback" in result.stderr
    assert result.stderr.endswith("skipkv: error: Prompt 0 is too long.\n")


def test_a_bug_keeps_its_traceback(engine, run):
    engine.refuse = RuntimeError("a bug")
    assert isinstance(run(*COMMAND, "hi").exception, RuntimeError)


def test_a_reader_that_stops_reading_ends_the_command_quietly():
    # A real pipe in a real process: the interpreter's own flush at exit must stay quiet too.
    script = (
        "import sys\n"
        "from skipkv.cli.exits import clean_exit\n"
        "import typer\n"
        "def main():\n"
        "    with clean_exit(debug=False):\n"
        "        for i in range(100_000): print(i)\n"
        "typer.run(main)\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", script],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    assert process.stdout.readline() == b"0\n"
    process.stdout.close()
    assert process.stderr.read() == b""
    assert process.wait() == 0
    process.stderr.close()
