"""`skipkv serve`: what it refuses before it loads a model, and how it stops."""

import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import openai
import pytest

from skipkv.cli import exits

ROOT = Path(__file__).parents[2]
QUESTION = "f:e+9; b:a+5; a:7; d:c-b; i:e+h; c:a+a; g:f-2; h:g+b; e:d+d. Start at a, find b and i."


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("-p", "nonsense"), "No preset is called 'nonsense'"),
        (("-p", "rkv"), "needs a budget in tokens. Add --budget N."),
        (("-p", "full", "--budget", "64"), "takes no budget"),
        (("-p", "full", "-p", "full"), "names a policy twice"),
        (("-p", "full", "--dtype", "float99"), "dtype float99 is not a torch dtype"),
    ],
)
def test_bad_input_is_one_line_before_the_model_is_loaded(run, monkeypatch, arguments, message):
    loaded = []
    monkeypatch.setattr("skipkv.models.load", lambda name, **_: loaded.append(name))
    result = run("serve", "--model", "elsewhere", *arguments)
    assert result.exit_code == exits.BAD_INPUT
    assert message in result.stderr
    assert not loaded


@contextmanager
def served(*arguments: str) -> Iterator[tuple[subprocess.Popen, openai.OpenAI]]:
    """A server process, and a client of it; it is ended if the block has not done so."""
    process = subprocess.Popen(
        [sys.executable, "-m", "skipkv", "serve", "-m", "tiny", "-p", "skipkv", *arguments],
        env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(sys.path)},
        cwd=ROOT,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stderr is not None
        said = ""
        while "Ctrl-C stops it" not in said:
            said = process.stderr.readline()
            assert said, "it ended before it was ready"
        url = re.search(r"http://\S+?/v1", said)
        assert url
        yield process, openai.OpenAI(base_url=url[0], api_key="none", max_retries=0, timeout=60)
    finally:
        process.kill()
        process.wait()


def ask(client: openai.OpenAI, **options):
    messages = [{"role": "user", "content": QUESTION}]
    return client.chat.completions.create(model="tiny", messages=messages, **options)


@pytest.mark.slow
def test_a_killed_server_starts_again_on_its_port_and_answers_as_before():
    with served("--port", "0") as (process, client):
        first = ask(client).choices[0].message
        port = str(client.base_url.port)
        stream = ask(client, stream=True, max_tokens=3000)
        next(iter(stream))
        process.send_signal(signal.SIGKILL)
        with pytest.raises(openai.APIConnectionError):
            list(stream)
    with served("--port", port) as (_, client):
        assert ask(client).choices[0].message == first
        assert first.content == r"The code is \boxed{27}."


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_lets_running_requests_end_and_the_exit_code_is_0(number):
    with served("--port", "0") as (process, client):
        stream = iter(ask(client, stream=True))
        chunks = [next(stream)]
        process.send_signal(number)
        chunks += list(stream)
        assert chunks[-1].choices[0].finish_reason == "stop"
        assert process.wait(60) == 0
        assert process.stderr.read() == "skipkv: stopped.\n"


@pytest.mark.slow
def test_after_the_grace_requests_are_ended_and_a_second_signal_waits_for_nothing():
    long = {"stream": True, "max_tokens": 3900, "extra_body": {"policy": "full"}}
    word = {"role": "user", "content": "a:b+c; "}
    for grace, signals in (("0", 1), ("1000", 2)):
        with served("--port", "0", "-p", "full", "--grace", grace) as (process, client):
            stream = iter(client.chat.completions.create(model="tiny", messages=[word], **long))
            next(stream)
            ended = threading.Event()
            for _ in range(signals):
                process.send_signal(signal.SIGINT)
                ended.wait(0.5)  # two signals at once would be one
            with pytest.raises(openai.APIError):
                list(stream)
            assert process.wait(60) == 0
