"""`skipkv check`: does a model decode under skipkv as it does by itself?"""

from typing import Annotated

import typer

from skipkv.cli.exits import FAILED, clean_exit, loading
from skipkv.cli.options import Debug, Device, Dtype, TrustRemoteCode
from skipkv.cli.placement import check_placement


def check(
    model: Annotated[str, typer.Argument(help="A folder, a hub id, a GGUF file, tiny or rambler.")],
    dtype: Dtype = "auto",
    device: Device = None,
    trust_remote_code: TrustRemoteCode = False,
    debug: Debug = False,
) -> None:
    """Compare a model's own decoding with decoding through skipkv: a few seconds.

    Exit code 0: it decodes the same. 1: something differs. 2: it cannot be loaded or decoded.
    """
    with clean_exit(debug=debug):
        with loading():
            check_placement(dtype, device)

            from skipkv.models import load
            from skipkv.testing import check_model

            found, tokenizer = load(
                model, dtype=dtype, device=device, trust_remote_code=trust_remote_code
            )
        report = check_model(found, tokenizer)
        typer.echo(str(report))
        if not report.passed:
            raise typer.Exit(FAILED)
