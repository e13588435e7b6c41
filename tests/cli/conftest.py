"""A stand-in for the engine: what the command line passes on is recorded, nothing is decoded."""

import io
import sys
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from skipkv.cli.app import app
from skipkv.errors import PartError
from skipkv.runtime import Completion, Stats
from skipkv.testing import toy_model

STATS = Stats(
    new_tokens=5,
    events=2,
    evicted=7,
    mean_entries=3.5,
    peak_entries=4,
    peak_kv_bytes=2_000_000,
    seconds=0.5,
    padding=4,
)


def completion(
    index: int = 0, sample: int = 0, text: str = "the text", **changes: Any
) -> Completion:
    return Completion(
        **{
            "index": index,
            "sample": sample,
            "prompt_tokens": 3,
            "tokens": (1, 2, 3, 4, 5),
            "text": text,
            "stop_reason": "eos",
            "stats": STATS,
            **changes,
        }
    )


class FakeTokenizer:
    chat_template: str | None = None


class FakeEngine:
    """Echoes every prompt; a prompt that holds "fail" fails."""

    tokenizer = FakeTokenizer()
    model = toy_model()
    loaded: dict[str, Any] | None = None
    asked: dict[str, Any] | None = None
    refuse: Exception | None = None
    stats = STATS

    @classmethod
    def from_pretrained(cls, name: str, **options: Any) -> "FakeEngine":
        cls.loaded = {"name": name, **options}
        return cls()

    def generate(self, prompts: list[Any], **options: Any) -> Iterator[Completion]:
        type(self).asked = {"prompts": prompts, **options}
        if self.refuse is not None:
            raise self.refuse
        return self._completions(prompts, options["sampling"].n)

    def _completions(self, prompts: list[Any], samples: int) -> Iterator[Completion]:
        for index, prompt in enumerate(prompts):
            for sample in range(samples):
                if "fail" in prompt:
                    error = PartError("Recency returned NaN.\nFix it.")
                    yield completion(index, sample, "", stop_reason="error", error=error)
                else:
                    yield completion(index, sample, f"answer to {prompt}", stats=self.stats)


@pytest.fixture
def engine(monkeypatch: pytest.MonkeyPatch) -> type[FakeEngine]:
    """The fake in the engine's place; what it was asked for is in `loaded` and `asked`."""
    fake = type("Fake", (FakeEngine,), {"tokenizer": FakeTokenizer()})
    monkeypatch.setattr("skipkv.runtime.Engine", fake)
    return fake


@pytest.fixture
def run() -> Callable[..., Result]:
    """Runs `skipkv ARGUMENTS...` in this process, with `input` piped in."""

    def run_command(*arguments: object, input: str | bytes | None = None) -> Result:
        return CliRunner().invoke(app, [str(a) for a in arguments], input=input)

    return run_command


@pytest.fixture
def piped(monkeypatch: pytest.MonkeyPatch) -> Callable[[bytes], None]:
    """Makes bytes the standard input."""

    def pipe(content: bytes) -> None:
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(content)))

    return pipe


class Terminal(io.StringIO):
    """A stream that is a terminal."""

    def isatty(self) -> bool:
        return True


@pytest.fixture
def on_terminal(monkeypatch: pytest.MonkeyPatch) -> Callable[..., tuple[str, str]]:
    """Runs `skipkv ARGUMENTS...` on a terminal 80 columns wide; gives stdout and stderr."""

    def run_command(*arguments: object) -> tuple[str, str]:
        monkeypatch.setenv("COLUMNS", "80")
        with monkeypatch.context() as patch:
            patch.setattr(sys, "stdout", out := Terminal())
            patch.setattr(sys, "stderr", err := Terminal())
            app([str(a) for a in arguments], standalone_mode=False)
        return out.getvalue(), err.getvalue()

    return run_command
