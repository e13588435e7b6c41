"""`skipkv generate`: decode prompts under a policy."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from skipkv._runs import check_writable
from skipkv.cli.exits import FAILED, clean_exit, loading
from skipkv.cli.options import (
    BudgetTokens,
    Debug,
    Device,
    Dtype,
    Interval,
    Model,
    Published,
    TrustRemoteCode,
    path_given,
)
from skipkv.cli.output import write
from skipkv.cli.placement import check_placement
from skipkv.cli.prompts import Prompt, read_prompts
from skipkv.cli.terminal import visible
from skipkv.errors import InputError

if TYPE_CHECKING:
    from skipkv.runtime import Engine


def generate(
    prompts: Annotated[
        list[str] | None,
        typer.Argument(
            help="Prompts. Without any: those of --input, or of standard input, one per line."
        ),
    ] = None,
    model: Model = ...,  # type: ignore[assignment]
    policy: Annotated[
        str,
        typer.Option(
            "--policy",
            "-p",
            help="A preset (see `skipkv policies`), or package.module:object for a Policy of your "
            "own, or for a function of a budget and an interval that returns one; with options as "
            "in skipkv:threshold=0.9.",
        ),
    ] = ...,  # type: ignore[assignment]
    budget: BudgetTokens = None,
    interval: Interval = None,
    vector: Annotated[
        str | None,
        typer.Option(
            metavar="FILE",
            help="Steer with the vector in FILE, made by `skipkv calibrate`.",
        ),
    ] = None,
    strength: Annotated[
        float | None,
        typer.Option(
            help="Strength of the steering: positive towards execution, 0 for none. Default: the "
            "model's own, or 1."
        ),
    ] = None,
    growth: Annotated[
        float | None,
        typer.Option(
            help="What every thought that is not execution adds to the strength. Default: 0.02 "
            "under skipkv, 0 under any other policy."
        ),
    ] = None,
    source: Annotated[
        str | None,
        typer.Option(
            "--input",
            "-i",
            metavar="FILE",
            help="Read prompts from FILE; - is standard input. A .jsonl file holds a JSON object "
            "per line, any other file a prompt per line.",
        ),
    ] = None,
    jsonl: Annotated[
        bool | None,
        typer.Option(
            "--jsonl/--text", help="Read the input as JSON lines or as text, whatever its name."
        ),
    ] = None,
    field: Annotated[
        str, typer.Option(help="JSONL field with the prompt: a text, or a list of messages.")
    ] = "prompt",
    limit: Annotated[int | None, typer.Option(min=1, help="Use the first N prompts only.")] = None,
    max_new_tokens: Annotated[
        int,
        typer.Option("--max-new-tokens", "-n", min=1, help="Most tokens to decode per completion."),
    ] = 1024,
    temperature: Annotated[
        float | None,
        typer.Option(
            help="Sampling temperature; 0 is greedy. Without it, --top-p and --top-k the model's "
            "generation config decides."
        ),
    ] = None,
    top_p: Annotated[
        float | None, typer.Option(help="Sample from the top probability mass; 1 is all.")
    ] = None,
    top_k: Annotated[
        int | None, typer.Option(help="Sample from the top k tokens; 0 is all.")
    ] = None,
    samples: Annotated[int, typer.Option(help="Completions per prompt.")] = 1,
    seed: Annotated[int, typer.Option(help="Seed of the sampling.")] = 0,
    batch_size: Annotated[int, typer.Option(min=1, help="Sequences decoded together.")] = 8,
    stop: Annotated[
        list[str] | None, typer.Option(help="Stop at this text. May be given several times.")
    ] = None,
    chat: Annotated[
        bool | None,
        typer.Option(
            "--chat/--raw",
            help="Wrap text prompts in the tokenizer's chat template, or not. Default: where it "
            "has one.",
        ),
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print a line of JSON per completion.")
    ] = False,
    trace: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            parser=path_given,
            help="Write what the policy kept of each completion to DIR; `skipkv trace` shows it.",
        ),
    ] = None,
    trace_scores: Annotated[
        bool,
        typer.Option("--trace-scores", help="Write the scores of each term to the traces as well."),
    ] = False,
    dtype: Dtype = "auto",
    device: Device = None,
    published: Published = False,
    trust_remote_code: TrustRemoteCode = False,
    debug: Debug = False,
) -> None:
    """Decode prompts under a KV-cache policy.

    Completions are printed as they finish, in the order of the prompts. Statistics go to stderr:
    tokens, speed, and what was saved beside a full cache.
    A preset takes its missing options from skipkv.json in the model's folder, if there is one.
    That of an embedded model holds a budget, a threshold and a steering vector. A line on stderr
    says what it took.

    Exit code: 0, or 1 if a completion failed, 2 if the input cannot be used, 130 after Ctrl-C.
    """
    with clean_exit(debug=debug):
        # Everything that can be wrong without the model is found before the model is loaded.
        requests = read_prompts(prompts or [], source=source, jsonl=jsonl, field=field, limit=limit)
        with loading():
            from skipkv.compositions import described, model_settings, own_settings, resolve_policy
            from skipkv.runtime import Engine, Sampling

        settings = model_settings(model, published=published)
        told = {
            "budget": budget,
            "interval": interval,
            "vector": vector,
            "strength": strength,
            "growth": growth,
        }
        composition = resolve_policy(policy, settings=settings, **told)  # type: ignore[arg-type]
        asked = {"temperature": temperature, "top_p": top_p, "top_k": top_k}
        asked = {name: value for name, value in asked.items() if value is not None}
        if asked and temperature is None:
            raise InputError(
                f"--{next(iter(asked)).replace('_', '-')} needs --temperature: without one, "
                "decoding would be greedy."
            )
        sampling = Sampling(**asked, n=samples, seed=seed) if asked else None  # type: ignore[arg-type]
        if trace_scores and trace is None:
            raise InputError("--trace-scores needs --trace DIR.")
        if trace is not None:
            check_writable(trace)
        check_placement(dtype, device)
        with loading():
            engine = Engine.from_pretrained(
                model,
                policy=composition,
                batch_size=batch_size,
                dtype=dtype,
                device=device,
                trust_remote_code=trust_remote_code,
            )
        check_known(requests, engine)
        if sampling is None:
            sampling = Sampling.from_model(engine.model, n=samples, seed=seed)
            if not sampling.greedy:
                typer.echo(f"skipkv: as the model's generation config asks: {sampling}", err=True)
        told = {key: value for key, value in told.items() if value is not None}
        note = described(policy, own_settings(policy, settings), told)
        if note is not None:
            typer.echo(f"skipkv: {note}", err=True)
        recorder = None
        if trace is not None:
            from skipkv.trace import Recorder

            recorder = Recorder(engine, trace, scores=trace_scores)
        failed = False
        for completion in engine.generate(
            as_chats(requests, chat, engine),
            observers=() if recorder is None else [recorder],
            max_new_tokens=max_new_tokens,
            sampling=sampling,
            stop=tuple(stop or ()),
            # A bar and the results on one terminal would overwrite each other.
            progress=False if sys.stdout.isatty() else None,
        ):
            write(completion, as_json=as_json, heading=len(requests) * samples > 1)
            sys.stdout.flush()
            failed |= completion.stop_reason == "error"
        if recorder is not None:
            for path in recorder.paths:
                typer.echo(f"skipkv: trace: {visible(str(path))}", err=True)
        if failed:
            sys.stdout.flush()
            raise typer.Exit(FAILED)


def check_known(prompts: list[Prompt], engine: "Engine") -> None:
    """Raise `InputError` for a prompt that the tokenizer does not know, as prose for `tiny`."""
    from skipkv.evaluation.prompts import LOST, lost_share

    for index, prompt in enumerate(prompts):
        texts = [prompt] if isinstance(prompt, str) else [m.get("content") or "" for m in prompt]
        lost = max(lost_share(engine.tokenizer, text) for text in texts)
        if lost > LOST:
            raise InputError(
                f"Prompt {index}: the model's tokenizer does not know {lost:.0%} of its "
                "characters. The model is made for other texts; skipkv/tiny/weights/README.md "
                "shows those of tiny, skipkv/tiny/rambler/weights/README.md those of rambler."
            )


def as_chats(prompts: list[Prompt], chat: bool | None, engine: "Engine") -> list[Prompt]:
    """Text prompts as a user's message, where the chat template is used."""
    has_template = bool(getattr(engine.tokenizer, "chat_template", None))
    if chat and not has_template:
        raise InputError("--chat: the model's tokenizer has no chat template. Use --raw.")
    if chat is False or not has_template:
        if not all(isinstance(prompt, str) for prompt in prompts):
            reason = "the tokenizer has no chat template" if not has_template else "--raw was given"
            raise InputError(f"The input holds lists of messages, but {reason}.")
        return prompts
    return [
        [{"role": "user", "content": prompt}] if isinstance(prompt, str) else prompt
        for prompt in prompts
    ]
