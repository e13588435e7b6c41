"""Traces on the command line, with the embedded model."""

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
