"""Options that several commands share."""

from pathlib import Path
from typing import Annotated

import typer


def path_given(value: str | Path) -> Path:
    """The path that an option names; pathlib takes an empty one for the current folder.

    Args:
        value: what was given, or the option's default.

    Raises:
        BadParameter: it is empty.
    """
    if not str(value).strip():
        raise typer.BadParameter("an empty path. Name a file or a folder; . is the current folder.")
    return Path(value)


Model = Annotated[
    str,
    typer.Option(
        "--model",
        "-m",
        help="tiny or rambler (embedded models), a folder, a hub id, or a .gguf file (or its "
        "folder).",
    ),
]
BudgetTokens = Annotated[
    int | None, typer.Option("--budget", "-b", help="Most entries kept per KV head, in tokens.")
]
Interval = Annotated[int | None, typer.Option(help="Decode steps between two compression events.")]
Dtype = Annotated[str, typer.Option(help="Of the weights: auto, float32, bfloat16 or float16.")]
Device = Annotated[
    str | None, typer.Option(help="cpu, cuda or cuda:0. Default: a GPU if there is one.")
]
Published = Annotated[
    bool,
    typer.Option(
        "--published",
        help="Give presets their published settings, whatever skipkv.json in the model's folder "
        "says.",
    ),
]
SamePolicies = Annotated[
    bool,
    typer.Option(
        "--same-policies",
        help="Go on where a policy is described otherwise than that of the folder, as by another "
        "version of skipkv: you say that both do the same. The summary says so.",
    ),
]
TrustRemoteCode = Annotated[
    bool, typer.Option("--trust-remote-code", help="Run Python code that the model brings.")
]
Debug = Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")]
