"""Traces on the command line, with the embedded model."""

import pytest

from skipkv.trace import Trace

PROBLEM = "d:c-b; b:a+5; a:7; c:a+a. Start at a, find b and d."
COMMAND = ("generate", "-m", "tiny", "-p", "skipkv", "-b", 64, "-n", 60, PROBLEM)


def test_generate_writes_a_trace_of_each_completion(run, tmp_path):
    result = run(*COMMAND, "--temperature", 1, "--samples", 2, "--trace", tmp_path)
    assert result.exit_code == 0
    for sample in (0, 1):
        path = tmp_path / f"trace-0-{sample}.npz"
        assert f"skipkv: trace: {path}" in result.stderr
        trace = Trace.load(path)
        assert trace.about["sample"] == sample
        assert trace.terms == ()
    assert PROBLEM in "".join(trace.pieces)


def test_scores_come_with_traces_where_they_are_asked_for(run, tmp_path):
    assert run(*COMMAND, "--trace", tmp_path, "--trace-scores").exit_code == 0
    assert len(Trace.load(tmp_path / "trace-0-0.npz").terms) == 3


def test_what_cannot_be_traced_is_refused_before_the_model_is_loaded(engine, run, tmp_path):
    (tmp_path / "file").write_text("")
    result = run(*COMMAND, "--trace", tmp_path / "file")
    assert (result.exit_code, engine.loaded) == (2, None)
    assert "is a file" in result.stderr
    result = run(*COMMAND, "--trace-scores")
    assert (result.exit_code, engine.loaded) == (2, None)
    assert "--trace-scores needs --trace DIR" in result.stderr


@pytest.fixture
def file(run, tmp_path):
    assert run(*COMMAND, "--trace", tmp_path / "traces").exit_code == 0
    return tmp_path / "traces" / "trace-0-0.npz"


def test_a_file_is_shown_as_text_and_as_a_page(run, tmp_path, file):
    result = run("trace", file)
    assert result.exit_code == 0
    assert "At the end: " in result.stdout
    assert "  execution " in result.stdout
    assert f"{file}:" in result.stdout
    assert "At event 0: " in run("trace", file, "--event", 0).stdout
    page = tmp_path / "a folder to be" / "page.html"
    result = run("trace", file, file, "--html", page)
    assert (result.exit_code, result.stdout) == (0, "")
    assert f"{page} shows it" in result.stderr
    assert page.read_text().startswith("<!doctype html>")
    assert "At the end: " in run("trace", file, "--text", "--html", page).stdout


def test_two_policies_decode_one_prompt_side_by_side(run, tmp_path):
    page = tmp_path / "page.html"
    result = run(
        "trace", "-m", "tiny", "-p", "rkv", "-p", "skipkv", "-b", 64, "-n", 40, PROBLEM,
        "--html", page, "--text",
    )  # fmt: skip
    assert result.exit_code == 0
    assert "rkv, budget 64:" in result.stdout
    assert "skipkv, budget 64:" in result.stdout
    assert "skipkv has the model's settings" in result.stderr
    assert "rkv, budget 64 and skipkv, budget 64: what was kept" in page.read_text()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "Give one or two files of traces, or --model with a prompt; got 0."),
        (["a", "b", "c"], "got 3."),
        (["none.npz"], "none.npz: No such file"),
        (["a.npz", "--policy", "rkv"], "--policy needs --model"),
        (["a.npz", "--interval", "8"], "--interval needs --model"),
        (["a.npz", "--temperature", "0"], "--temperature needs --model"),
        (["a.npz", "--raw"], "--chat needs --model"),
        (["--model", "tiny", "--policy", "rkv"], "give one prompt as the argument, got 0"),
        (["--model", "tiny", "x"], "--model needs --policy, once or twice."),
        (["--model", "tiny", "--policy", "nonsense", "x"], "nonsense"),
        (["x", "--html", "no-folder/is-here/page.html"], "x: No such file"),
    ],
)
def test_what_cannot_be_shown_is_refused(run, arguments, message):
    result = run("trace", *arguments)
    assert result.exit_code == 2
    assert message in result.stderr


def test_an_event_that_is_not_there_and_a_page_that_cannot_be_written_are_refused(
    run, tmp_path, file
):
    result = run("trace", file, "--event", 99)
    assert result.exit_code == 2
    assert result.stdout == ""
    assert "Trace.kept(event=99): the trace has" in result.stderr
    result = run("trace", file, "--html", tmp_path)
    assert result.exit_code == 2
    assert "is a folder" in result.stderr
