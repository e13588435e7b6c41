"""What reaches a terminal, and how commands end."""

import logging
import os
import subprocess
import sys
import time

import pytest

from skipkv.cli import exits

COMMAND = ("generate", "--model", "some/model", "--policy", "rkv", "--budget", "64")
# window title, clear screen, clipboard, C1, DEL, bell, carriage return
CONTROLS = "\x1b]0;title\x07\x1b[2J\x1b]52;c;aGk=\x07\x9b2J\x7f\x08\rover\ttab\nline"
SHOWN = (
    r"\x1b]0;title\x07\x1b[2J\x1b]52;c;aGk=\x07\x9b2J\x7f\x08\x0dover" + "\ttab\nline"
)  # fmt: skip


def test_a_terminal_shows_control_characters_of_the_model_and_does_not_obey_them(
    engine, on_terminal
):
    out, _ = on_terminal(*COMMAND, CONTROLS)
    assert out == f"answer to {SHOWN}\n"


def test_a_pipe_gets_the_text_as_it_is(engine, run):
    assert run(*COMMAND, CONTROLS).stdout_bytes.decode() == f"answer to {CONTROLS}\n"


@pytest.mark.parametrize(
    "arguments",
    [
        (*COMMAND[:3], "--policy", "rk\x1b[2Jv", "hi"),
        (*COMMAND, "--input", "no\x1b[2Jfile"),
        (*COMMAND, "--device", "cp\x1b[2Ju", "hi"),
        ("eval", "--model", "tiny", "--data", "no\x1b[2Jdata"),
    ],
)
def test_errors_show_control_characters_of_names(engine, run, arguments):
    result = run(*arguments)
    assert result.exit_code == exits.BAD_INPUT
    assert "\x1b" not in result.stderr
    assert r"\x1b[2J" in result.stderr


@pytest.mark.parametrize(
    "arguments",
    [
        ("a prompt \udcff",),
        ("--stop", "\udcff", "hi"),
        ("--input", "caf\udce9.txt"),
        ("--model", "caf\udce9", "hi"),
    ],
)
def test_an_argument_that_is_not_text_is_an_error_in_one_line(engine, run, arguments):
    result = run(*COMMAND, *arguments)
    assert (result.exit_code, engine.loaded) == (exits.BAD_INPUT, None)
    assert "is not valid UTF-8. Convert the text, or rename the file." in result.stderr
    assert result.stderr.count("\n") == 1


def python(code: str, *, stdout: object, **environment: str) -> subprocess.CompletedProcess[bytes]:
    """Run a program whose stdout is a file."""
    return subprocess.run(
        [sys.executable, "-c", code],
        stdout=stdout,
        stderr=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), **environment},
        check=False,
    )


PRINTS = """
import sys, typer
from skipkv.cli import app, main
from skipkv.cli.exits import clean_exit
@app.app.command()
def prints():
    with clean_exit(debug=False):
        print(sys.argv[-1] * 9000)
sys.argv = ["skipkv", "prints"]
main()
"""


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no full device here")
def test_a_full_disk_is_one_line():
    with open("/dev/full", "wb") as full:
        result = python(PRINTS, stdout=full)
    assert result.returncode == exits.BAD_INPUT
    assert b"No space left on device" in result.stderr
    assert result.stderr.count(b"\n") == 1


def test_a_stdout_that_was_closed_beforehand_is_no_crash():
    closed = python(f"import sys; sys.stdout = sys.stderr = None\n{PRINTS}", stdout=None)
    assert (closed.returncode, closed.stderr) == (0, b"")


def test_a_character_that_the_output_cannot_hold_is_written_as_its_code(tmp_path):
    with open(tmp_path / "out", "wb") as out:
        result = python(
            PRINTS.replace("sys.argv[-1] * 9000", r"'\u56db \udcff'"),
            stdout=out,
            PYTHONIOENCODING="latin-1",
        )
    assert (result.returncode, result.stderr) == (0, b"")
    assert (tmp_path / "out").read_text() == "\\u56db \\udcff\n"


INTERRUPT = """
import os, signal
# a shell starts what runs in the background deaf to Ctrl-C
signal.signal(signal.SIGINT, signal.default_int_handler)
from skipkv.cli.exits import clean_exit, loading
with {block}:
    try:
        os.kill(os.getpid(), signal.SIGINT)
    except KeyboardInterrupt:  # as C code does that imports modules
        {caught}
"""


@pytest.mark.parametrize(
    ("block", "caught"), [("loading()", "pass"), ("clean_exit(debug=False)", "raise")]
)
def test_ctrl_c_is_one_line_whether_modules_are_loading_or_work_is_done(block, caught):
    code = INTERRUPT.format(block=block, caught=caught)
    result = python(code, stdout=subprocess.PIPE)
    assert result.stderr.startswith(b"\nskipkv: interrupted.\n")
    if block == "loading()":
        assert result.stderr.count(b"\n") == 2
        assert result.returncode == 130
    else:
        assert result.stderr.endswith(b"Exit: 130\n")  # click's exception, which it exits with


def test_a_hub_that_does_not_answer_is_told_in_one_line_and_soon(run, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")
    started = time.perf_counter()
    result = run("generate", "-m", "no/such", "-p", "full", "hi")
    assert time.perf_counter() - started < 15  # its client alone takes a minute
    assert result.exit_code == exits.BAD_INPUT
    [line] = result.stderr.splitlines()
    assert line.startswith(
        "skipkv: error: Cannot load the config of 'no/such': the model hub (http"
    )
    assert "does not answer, and it was not downloaded earlier" in line


def test_the_hub_clients_many_lines_about_one_outage_are_one_line(capsys):
    client = logging.getLogger("huggingface_hub.utils._http")
    with exits.clean_exit(debug=False):
        for seconds in (1, 2, 4):
            client.warning("'Timeout' thrown while requesting GET http://hub/file")
            client.warning(f"Retrying in {seconds}s [Retry 1/5].")
    told = "skipkv: the model hub does not answer. Trying again for up to a minute.\n"
    assert capsys.readouterr().err == told
