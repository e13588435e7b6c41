"""What options of several commands have in common."""

from pathlib import Path

import pytest
from typer.testing import CliRunner

from skipkv.cli.app import app

CALIBRATE = ("calibrate", "-m", "tiny", "-d", "tiny")
EVAL = ("eval", "-m", "tiny")


@pytest.mark.parametrize(
    "command",
    [
        ("bench", "-m", "tiny", "--output"),
        (*EVAL, "--output"),
        ("eval", "--summarize"),
        ("eval", "--merge"),
        ("fidelity", "-m", "tiny", "-t", "texts.txt", "--output"),
        (*CALIBRATE, "--output"),
        (*CALIBRATE, "--queries"),
        (*CALIBRATE, "--threshold"),
        (*CALIBRATE, "--plot"),
        (*CALIBRATE, "--work"),
        ("generate", "-m", "tiny", "-p", "rkv", "a prompt", "--trace"),
        ("trace", "a.trace", "--html"),
        ("export", "tiny", "rkv"),
    ],
    ids=" ".join,
)
@pytest.mark.parametrize("path", ["", " "])
def test_an_empty_path_is_not_the_current_folder(
    command: tuple[str, ...], path: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    result = CliRunner().invoke(app, [*command, path])
    assert result.exit_code == 2
    asked = command[-1] if command[-1].startswith("-") else "DIR"
    assert f"'{asked}'" in result.stderr
    assert "an empty path. Name a file or a folder" in " ".join(result.stderr.split())
    assert not [*tmp_path.iterdir()]


def test_an_empty_path_in_a_file_of_options_is_not_the_current_folder_either(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("options.yaml").write_text("output: ''\n")
    result = CliRunner().invoke(app, [*EVAL, "--config", "options.yaml"])
    assert (result.exit_code, len([*tmp_path.iterdir()])) == (2, 1)
    assert "an empty path" in result.stderr


def test_a_folder_is_no_file_for_a_vector(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    result = CliRunner().invoke(app, [*CALIBRATE, "--output", "."])
    assert result.exit_code == 2
    assert ". is a folder, but a file must be written there" in result.stderr
