"""`skipkv fidelity`: how far policies move a model's predictions from the full cache's."""

from pathlib import Path
from typing import Annotated

import typer

from skipkv.cli.exits import clean_exit, loading, resumable
from skipkv.cli.options import (
    Debug,
    Device,
    Dtype,
    Published,
    SamePolicies,
    TrustRemoteCode,
    path_given,
)
from skipkv.cli.placement import check_placement
from skipkv.cli.prompts import read_prompts
from skipkv.errors import InputError, MissingExtraError


def fidelity(
    model: Annotated[
        str,
        typer.Option(
            "--model",
            "-m",
            help="tiny or rambler (embedded models), a folder, a hub id, or a .gguf file.",
        ),
    ],
    texts: Annotated[
        str,
        typer.Option(
            "--texts",
            "-t",
            metavar="FILE",
            help="Texts: a .jsonl file, or a text file with one per line.",
        ),
    ],
    policies: Annotated[
        list[str],
        typer.Option(
            "--policies",
            "-p",
            help="Presets (see `skipkv policies`) or package.module:object, with options as in "
            "skipkv:threshold=0.9; comma-separated or repeated.",
        ),
    ] = ["streaming_llm,snapkv,rkv,skipkv"],  # noqa: B006 - typer reads it and never changes it
    budgets: Annotated[
        list[str],
        typer.Option(
            "--budgets",
            "-b",
            help="Entries per KV head, in tokens (96) or percent of the mean text (25%); "
            "comma-separated or repeated.",
        ),
    ] = ["25%,50%"],  # noqa: B006
    interval: Annotated[
        int, typer.Option(min=1, help="Tokens between two compression events.")
    ] = 128,
    prompt_tokens: Annotated[
        int, typer.Option(min=1, help="Tokens of a text that are its prompt.")
    ] = 64,
    max_tokens: Annotated[
        int, typer.Option(min=3, help="Tokens of a text that are fed at most.")
    ] = 1024,
    field: Annotated[str, typer.Option(help="JSONL field with the text.")] = "text",
    limit: Annotated[int | None, typer.Option(min=1, help="Use the first N texts only.")] = None,
    batch_size: Annotated[
        int,
        typer.Option(
            min=1,
            help="Texts fed side by side; memory holds their full logits: batch size x tokens x "
            "vocabulary x 4 bytes.",
        ),
    ] = 4,
    output: Annotated[
        Path,
        typer.Option(
            "--output",
            "-o",
            metavar="DIR",
            parser=path_given,
            help="Folder for records, table and plot. A run that is already there goes on.",
        ),
    ] = Path("skipkv-fidelity"),
    same_policies: SamePolicies = False,
    dtype: Dtype = "auto",
    device: Device = None,
    published: Published = False,
    trust_remote_code: TrustRemoteCode = False,
    debug: Debug = False,
) -> None:
    """Measure how far policies move a model's predictions from the full cache's.

    Texts are fed under each policy with teacher forcing. At every position its next-token
    distribution is compared with the full cache's: the divergence (KL), whether the most likely
    token is the same, and the likelihood of the text. Nothing is generated and nothing is graded,
    so any text will do. Every text is written to DIR as soon as it is done; after an interruption
    the same command goes on, and a command with more policies or budgets adds to what is there.

    Exit code: 0, or 2 if the input cannot be used, or 130 after Ctrl-C.
    """
    with clean_exit(debug=debug):
        with loading():
            from skipkv.compositions import model_settings
            from skipkv.evaluation.candidates import parse_candidates
            from skipkv.fidelity import Comparison, compare
            from skipkv.fidelity.plot import plot
            from skipkv.models import load

        candidates = parse_candidates(policies, settings=model_settings(model, published=published))
        asked = [_budget(piece) for text in budgets for piece in text.split(",") if piece.strip()]
        read = read_prompts([], source=texts, field=field, limit=limit)
        for number, text in enumerate(read):
            if not isinstance(text, str):
                raise InputError(f"--texts {texts}: text {number} is a conversation, not a text.")
        check_placement(dtype, device)
        for candidate in candidates:
            if candidate.note:
                typer.echo(f"skipkv: {candidate.note}", err=True)
        with loading():
            loaded, tokenizer = load(
                model, dtype=dtype, device=device, trust_remote_code=trust_remote_code
            )
        ids = [tokenizer(text)["input_ids"][:max_tokens] for text in read]
        mean = sum(map(len, ids)) / len(ids)
        tokens = [
            number if percent is None else max(1, round(mean * percent / 100))
            for number, percent in asked
        ]
        comparison = Comparison(
            policies=[
                (candidate.label, candidate.policy(budget=budget, interval=interval))
                for candidate in candidates
                for budget in (dict.fromkeys(tokens) if candidate.takes_budget else (None,))
            ],
            prompt_tokens=prompt_tokens,
            max_tokens=max_tokens,
            batch_size=batch_size,
        )
        with resumable(output):
            found = compare(
                *(loaded, tokenizer, ids, comparison), folder=output, same_policies=same_policies
            )
        typer.echo(found.markdown())
        picture = output / "fidelity.png"
        try:
            from skipkv._runs import require_extra

            require_extra("eval", "matplotlib")
        except MissingExtraError as missing:
            typer.echo(f"skipkv: no plot. {missing}", err=True)
        else:
            plot(found, picture)
        typer.echo(f"\nrecords, table and plot are in {output}", err=True)


def _budget(text: str) -> tuple[int, float | None]:
    """A budget in tokens, or in percent of the mean text."""
    written = text.strip()
    try:
        if written.endswith("%"):
            percent = float(written[:-1])
            if 0 < percent <= 100:
                return 0, percent
        elif int(written) > 0:
            return int(written), None
    except ValueError:
        pass
    raise InputError(
        f"--budgets {written} must be whole numbers of tokens (96) or percent of the mean text "
        "(25%)."
    )
