"""What tests of integrations share with those of the command line."""

from collections.abc import Callable

import pytest
from typer.testing import CliRunner, Result

from skipkv.cli.app import app


@pytest.fixture
def run() -> Callable[..., Result]:
    """Runs `skipkv ARGUMENTS...` in this process."""

    def run_command(*arguments: object) -> Result:
        return CliRunner().invoke(app, [str(a) for a in arguments])

    return run_command
