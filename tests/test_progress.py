"""Progress where there is a terminal, and where there is none."""

import io
import sys

import pytest

from skipkv._progress import progress_bar


class Stream(io.StringIO):
    def __init__(self, *, terminal: bool) -> None:
        super().__init__()
        self.isatty = lambda: terminal


@pytest.mark.parametrize(
    ("show", "terminal", "shown"),
    [
        (None, True, "run"),
        (None, False, ""),  # it was done at once
        (True, False, "run"),
        (False, True, ""),
        (False, False, ""),
    ],
)
def test_a_terminal_gets_a_bar(
    monkeypatch: pytest.MonkeyPatch, show: bool | None, terminal: bool, shown: str
) -> None:
    monkeypatch.setattr(sys, "stderr", stream := Stream(terminal=terminal))
    assert list(progress_bar(show, range(3), desc="run")) == [0, 1, 2]
    assert shown in stream.getvalue()
    assert bool(stream.getvalue()) is bool(shown)


def test_a_log_gets_a_line_now_and_then(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    monkeypatch.setattr(sys, "stderr", stream := Stream(terminal=False))
    with progress_bar(None, total=8, unit="sample", mininterval=0) as bar:
        bar.set_description("rkv at 96")
        for _ in range(8):
            now[0] += 20
            bar.update()
    lines = stream.getvalue().splitlines()
    assert [line.split(" [")[0] for line in lines] == [
        f"rkv at 96: {done}/8 samples" for done in (2, 4, 6, 8)
    ]
    assert stream.getvalue().endswith("\n")
