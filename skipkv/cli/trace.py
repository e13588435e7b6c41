"""`skipkv trace`: look at what a policy kept."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from skipkv._runs import check_writable, writing
from skipkv.cli.exits import FAILED, clean_exit, loading, one_line
from skipkv.cli.generate import as_chats, check_known
from skipkv.cli.options import (
    BudgetTokens,
    Debug,
    Device,
    Dtype,
    Interval,
    Published,
    TrustRemoteCode,
    path_given,
)
from skipkv.cli.placement import check_placement
from skipkv.cli.terminal import put, visible
from skipkv.errors import InputError

if TYPE_CHECKING:
    from skipkv.trace import Trace


def trace(
    sources: Annotated[
        list[str] | None,
        typer.Argument(
            help="Files of traces, one or two. With --model, the prompt to decode instead."
        ),
    ] = None,
    html: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            parser=path_given,
            help="Write a page that any browser shows to FILE.",
        ),
    ] = None,
    text: Annotated[
        bool,
        typer.Option("--text", help="Print the sentences. Default: where --html is not given."),
    ] = False,
    event: Annotated[
        int | None,
        typer.Option(
            help="Print what is held after this event, from 0; -1 is the last. Default: the end."
        ),
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(
            "--model",
            "-m",
            help="Decode a prompt with this model, instead of reading files: tiny or rambler "
            "(embedded models), a folder, a hub id, or a .gguf file (or its folder).",
        ),
    ] = None,
    policy: Annotated[
        list[str] | None,
        typer.Option(
            "--policy",
            "-p",
            help="As for `skipkv generate`. Two of them decode the same prompt, side by side.",
        ),
    ] = None,
    budget: BudgetTokens = None,
    interval: Interval = None,
    max_new_tokens: Annotated[
        int, typer.Option("--max-new-tokens", "-n", min=1, help="Most tokens to decode.")
    ] = 1024,
    temperature: Annotated[
        float | None,
        typer.Option(
            help="Sampling temperature; 0 is greedy. Without it the model's generation config "
            "decides."
        ),
    ] = None,
    seed: Annotated[int, typer.Option(help="Seed of the sampling.")] = 0,
    chat: Annotated[
        bool | None,
        typer.Option(
            "--chat/--raw",
            help="Wrap the prompt in the tokenizer's chat template, or not. Default: where it has "
            "one.",
        ),
    ] = None,
    dtype: Dtype = "auto",
    device: Device = None,
    published: Published = False,
    trust_remote_code: TrustRemoteCode = False,
    debug: Debug = False,
) -> None:
    """Show which entries of the cache a policy kept, and when the others left.

    Reads traces that `skipkv generate --trace DIR` wrote, or decodes a prompt. The page shades each
    token by the share of heads that hold it, and has a slider over the events. Two traces are shown
    side by side.

    Exit code: 0, or 1 if a completion failed, 2 if the input cannot be used, 130 after Ctrl-C.
    """
    with clean_exit(debug=debug):
        given = list(sources or [])
        if html is not None:
            check_writable(html.parent, (html.name,))
        if model is None:
            asked = {
                "--policy": policy,
                "--budget": budget,
                "--interval": interval,
                "--temperature": temperature,
                "--chat": chat,
                "--published": published or None,
            }
            if needy := [option for option, value in asked.items() if value not in (None, [])]:
                raise InputError(f"{needy[0]} needs --model: what is in a file was decoded before.")
            if not 1 <= len(given) <= 2:
                raise InputError(
                    f"Give one or two files of traces, or --model with a prompt; got {len(given)}."
                )
            with loading():
                from skipkv.trace import Trace
            traces = [Trace.load(path) for path in given]
            labels = given if len(set(given)) == len(given) else []
            failed = False
        else:
            if len(given) != 1 or not given[0].strip():
                raise InputError(
                    f"With --model, give one prompt as the argument, got {len(given)} of them."
                )
            if not policy or len(policy) > 2:
                raise InputError("--model needs --policy, once or twice.")
            check_placement(dtype, device)
            traces, labels, failed = _decoded(
                model,
                policy,
                given[0],
                budget=budget,
                interval=interval,
                max_new_tokens=max_new_tokens,
                temperature=temperature,
                seed=seed,
                chat=chat,
                published=published,
                loaded={"dtype": dtype, "device": device, "trust_remote_code": trust_remote_code},
            )
        _show(traces, labels, html=html, text=text or html is None, event=event)
        if failed:
            raise typer.Exit(FAILED)


def _decoded(
    model: str,
    names: list[str],
    prompt: str,
    *,
    budget: int | None,
    interval: int | None,
    max_new_tokens: int,
    temperature: float | None,
    seed: int,
    chat: bool | None,
    published: bool,
    loaded: dict[str, Any],
) -> tuple[list["Trace"], list[str], bool]:
    """The trace and the label of each policy, and whether a completion failed."""
    with loading():
        from skipkv.compositions import described, model_settings, own_settings, resolve_policy
        from skipkv.models import load
        from skipkv.runtime import Engine, Sampling
        from skipkv.trace import Recorder

    settings = model_settings(model, published=published)
    told = {"budget": budget, "interval": interval}
    policies = [
        resolve_policy(name, settings=settings, vector=None, strength=None, growth=None, **told)
        for name in names
    ]
    with loading():
        weights, tokenizer = load(model, **loaded)
    told = {key: value for key, value in told.items() if value is not None}
    traces: list[Trace] = []
    failed = False
    for name, composed in zip(names, policies, strict=True):
        note = described(name, own_settings(name, settings), told)
        if note is not None:
            typer.echo(f"skipkv: {note}", err=True)
        engine = Engine(weights, tokenizer, composed, batch_size=1)
        check_known([prompt], engine)
        sampling = (
            Sampling.from_model(engine.model, seed=seed)
            if temperature is None
            else Sampling(temperature=temperature, seed=seed)
        )
        recorder = Recorder(engine, scores=True)
        for completion in engine.generate(
            as_chats([prompt], chat, engine),
            max_new_tokens=max_new_tokens,
            sampling=sampling,
            observers=[recorder],
        ):
            if completion.error is not None:
                typer.echo(f"skipkv: error: {one_line(completion.error)}", err=True)
                failed = True
        traces += recorder.traces
    labels = [f"{name}, budget {budget}" if budget is not None else name for name in names]
    if not traces:
        raise InputError("No trace: the prompt was not decoded.")
    return traces, labels[: len(traces)], failed


def _show(
    traces: list["Trace"], labels: list[str], *, html: Path | None, text: bool, event: int | None
) -> None:
    from skipkv.trace import listing, page

    if html is not None:
        content = page(traces, labels)
        with writing(html):
            html.parent.mkdir(parents=True, exist_ok=True)
            html.write_text(content, encoding="utf-8")
        typer.echo(f"skipkv: {visible(str(html))} shows it; open it in a browser.", err=True)
    if text:
        lists = [listing(found, event) for found in traces]
        for number, (found, listed) in enumerate(zip(traces, lists, strict=True)):
            if number:
                put("")
            put(visible(f"{labels[number] if labels else found.about.get('policy')}:"))
            put(visible(listed))
