"""`skipkv export`: a model's folder whose generate() decodes under a policy."""

from pathlib import Path
from typing import Annotated

import typer

from skipkv.cli.exits import clean_exit, loading
from skipkv.cli.options import (
    BudgetTokens,
    Debug,
    Dtype,
    Interval,
    Published,
    TrustRemoteCode,
    path_given,
)


def export(
    model: Annotated[str, typer.Argument(help="tiny, rambler, a folder, a hub id, a GGUF file.")],
    policy: Annotated[
        str,
        typer.Argument(
            help="A preset or package.module:object, with options as in skipkv:threshold=0.9."
        ),
    ],
    folder: Annotated[
        Path,
        typer.Argument(metavar="DIR", parser=path_given, help="A folder that is not there yet."),
    ],
    budget: BudgetTokens = None,
    interval: Interval = None,
    weights: Annotated[
        bool,
        typer.Option(
            "--weights/--code-only", help="Write model and tokenizer too, or the code alone."
        ),
    ] = True,
    dtype: Dtype = "auto",
    published: Published = False,
    trust_remote_code: TrustRemoteCode = False,
    debug: Debug = False,
) -> None:
    """Write a folder that transformers loads, and whose generate() decodes under a policy.

    Load it with AutoModelForCausalLM.from_pretrained(DIR, trust_remote_code=True). It needs skipkv
    where it is loaded.

    Exit code: 0, or 2 if the input cannot be used.
    """
    with clean_exit(debug=debug):
        with loading():
            from skipkv.integrations import custom_generate
        custom_generate.export(
            model,
            policy,
            folder,
            budget=budget,
            interval=interval,
            published=published,
            weights=weights,
            dtype=dtype,
            trust_remote_code=trust_remote_code,
        )
        typer.echo(
            f"{folder}: from_pretrained(..., trust_remote_code=True) decodes under {policy}."
        )
