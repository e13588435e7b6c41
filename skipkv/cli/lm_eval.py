"""`skipkv lm-eval`: lm-evaluation-harness, with the model "skipkv"."""

import sys
from typing import Annotated

import typer

from skipkv.cli.exits import clean_exit, loading


def lm_eval(
    arguments: Annotated[list[str] | None, typer.Argument(help="lm-eval's own.")] = None,
) -> None:
    """Start lm-evaluation-harness, which knows the model "skipkv" then.

    All arguments are lm-eval's own, as in: skipkv lm-eval run --model skipkv --model_args
    pretrained=tiny,policy=rkv,budget=160 --tasks gsm8k

    Exit code: lm-eval's, or 2 if the input cannot be used.
    """
    given = arguments or []
    with clean_exit(debug="--debug" in given):
        with loading():
            from skipkv._runs import require_extra

            require_extra("lm-eval", "lm_eval")

            from lm_eval.__main__ import cli_evaluate

            import skipkv.integrations.lm_eval  # noqa: F401  (registers the model)

        sys.argv = ["lm-eval", *(arg for arg in given if arg != "--debug")]
        cli_evaluate()
