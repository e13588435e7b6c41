"""How commands end."""

import subprocess
import sys
from pathlib import Path

import pytest

FULL = Path("/dev/full")
PRINTS = """
from skipkv.cli.exits import clean_exit
import typer
app = typer.Typer()
@app.command()
def print_much():
    with clean_exit(debug=False):
        for _ in range(int(1e4)):
            typer.echo("much")
app()
"""


@pytest.mark.skipif(not FULL.exists(), reason="needs /dev/full")
def test_a_full_disk_at_the_end_of_a_redirection_is_one_line() -> None:
    with FULL.open("w") as full:
        done = subprocess.run(
            [sys.executable, "-c", PRINTS],
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            env={"PYTHONPATH": ":".join(sys.path)},
            check=False,
        )
    assert done.stderr == (
        "skipkv: error: Cannot write the output: No space left on device. Make room and start "
        "again.\n"
    )
    assert done.returncode == 2
