"""`skipkv check`: its report and its exit codes."""

import skipkv.testing
from skipkv.testing import Finding, ModelReport


def test_a_model_that_decodes_the_same_ends_with_zero(run):
    result = run("check", "tiny", "--device", "cpu")
    assert result.exit_code == 0
    assert "same     exact budget under the Engine" in result.stdout


def test_a_difference_ends_with_one_and_is_shown(run, monkeypatch):
    report = ModelReport(
        model="a model", findings=(Finding(name="logits", verdict="differs", detail="by 0.5"),)
    )
    monkeypatch.setattr(skipkv.testing, "check_model", lambda model, tokenizer: report)
    result = run("check", "tiny", "--device", "cpu")
    assert result.exit_code == 1
    assert "differs  logits: by 0.5" in result.stdout


def test_no_model_ends_with_two(run):
    result = run("check", "./nothing")
    assert result.exit_code == 2
    assert "No model at" in result.stderr
