"""The commands joined under one name."""

from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from skipkv.cli.bench import bench
from skipkv.cli.calibrate import calibrate
from skipkv.cli.check import check
from skipkv.cli.eval import evaluate
from skipkv.cli.exits import clean_exit
from skipkv.cli.export import export
from skipkv.cli.fidelity import fidelity
from skipkv.cli.generate import generate
from skipkv.cli.lm_eval import lm_eval
from skipkv.cli.policies import policies
from skipkv.cli.serve import serve
from skipkv.cli.trace import trace
from skipkv.errors import InputError


class _Commands(TyperGroup):
    """Refuses an argument that is not text, before any command reads it."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        with clean_exit(debug="--debug" in args):
            for argument in args:
                try:
                    argument.encode()
                except UnicodeEncodeError:
                    # Python keeps bytes that do not decode as lone surrogates.
                    shown = argument.encode(errors="backslashreplace").decode()
                    raise InputError(
                        f"The argument '{shown}' is not valid UTF-8. Convert the text, or rename "
                        "the file."
                    ) from None
        return super().parse_args(ctx, args)


app = typer.Typer(
    cls=_Commands,
    help="Reasoning models that think in a bounded KV cache.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,  # plain help and plain one-line errors, the same in a pipe
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command()(generate)
app.command("eval")(evaluate)
app.command()(fidelity)
app.command()(bench)
app.command()(calibrate)
app.command()(policies)
app.command()(check)
app.command()(serve)
app.command()(export)
app.command(
    "lm-eval",
    add_help_option=False,  # lm-eval has its own
    context_settings={"ignore_unknown_options": True},
)(lm_eval)
app.command()(trace)


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
