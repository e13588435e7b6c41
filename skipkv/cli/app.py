"""The commands joined under one name."""

from typing import Annotated

import typer

from skipkv.cli.bench import bench
from skipkv.cli.calibrate import calibrate
from skipkv.cli.eval import evaluate
from skipkv.cli.generate import generate
from skipkv.cli.policies import policies

app = typer.Typer(
    help="Reasoning models that think in a bounded KV cache.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,  # plain help and plain one-line errors, the same in a pipe
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command()(generate)
app.command("eval")(evaluate)
app.command()(bench)
app.command()(calibrate)
app.command()(policies)


def _print_version(wanted: bool) -> bool:
    if wanted:
        from skipkv import __version__

        typer.echo(f"skipkv {__version__}")
        raise typer.Exit
    return wanted


@app.callback()
def _skipkv(
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_print_version, is_eager=True, help="Print the version."
        ),
    ] = False,
) -> None:
    """Reasoning models that think in a bounded KV cache."""


def main() -> None:
    """Run the command line; what `skipkv` and `python -m skipkv` start."""
    app()
