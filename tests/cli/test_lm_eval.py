"""`skipkv lm-eval` without lm-evaluation-harness; tests/integrations has the tests with it."""

import sys

from skipkv.cli import exits


def test_without_the_extra_one_line_says_how_to_install_it(run, monkeypatch):
    monkeypatch.setitem(sys.modules, "lm_eval", None)
    result = run("lm-eval", "run", "--model", "skipkv", "--tasks", "gsm8k")
    assert result.exit_code == exits.BAD_INPUT
    assert result.stderr == (
        "skipkv: error: lm_eval is not installed. It comes with the extra `lm-eval`: pip install "
        "'skipkv[lm-eval]'.\n"
    )
