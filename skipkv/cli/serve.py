"""`skipkv serve`: OpenAI's HTTP API for a model under a policy."""

from pathlib import Path
from typing import Annotated

import typer

from skipkv.cli.exits import clean_exit, loading
from skipkv.cli.options import (
    BudgetTokens,
    Debug,
    Device,
    Dtype,
    Interval,
    Model,
    Published,
    TrustRemoteCode,
)
from skipkv.cli.placement import check_placement
from skipkv.errors import InputError


def serve(
    model: Model = ...,  # type: ignore[assignment]
    policy: Annotated[
        list[str],
        typer.Option(
            "--policy",
            "-p",
            help="A preset (see `skipkv policies`) or package.module:object, with options as in "
            "rkv:budget=1024. Given several times, a request may name one in its field 'policy'; "
            "the first is for requests that name none.",
        ),
    ] = ...,  # type: ignore[assignment]
    budget: BudgetTokens = None,
    interval: Interval = None,
    name: Annotated[
        str | None,
        typer.Option(help="The model's name for clients. Default: the last part of --model."),
    ] = None,
    host: Annotated[
        str, typer.Option(help="Address to listen on. The default lets this machine alone connect.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="0 takes a free one.")] = 8000,
    api_key: Annotated[
        str | None,
        typer.Option(
            envvar="SKIPKV_API_KEY",
            help="What clients must send. Better in the environment, where other users of the "
            "machine cannot see it.",
        ),
    ] = None,
    batch_size: Annotated[
        int, typer.Option(min=1, help="Sequences decoded together, per policy.")
    ] = 8,
    queue: Annotated[
        int, typer.Option(min=1, help="Sequences that wait for a lane; at more: status 429.")
    ] = 256,
    max_tokens: Annotated[
        int | None,
        typer.Option(min=1, help="Most tokens that a request may ask for. Default: no limit."),
    ] = None,
    max_choices: Annotated[
        int, typer.Option(min=1, help="Most sequences of one request: prompts times n.")
    ] = 16,
    max_body: Annotated[int, typer.Option(min=1, help="Most bytes of a request.")] = 2**20,
    timeout: Annotated[float, typer.Option(min=1, help="Most seconds for a request.")] = 600,
    grace: Annotated[
        float, typer.Option(min=0, help="Seconds for running requests when the server stops.")
    ] = 10,
    dtype: Dtype = "auto",
    device: Device = None,
    published: Published = False,
    trust_remote_code: TrustRemoteCode = False,
    debug: Debug = False,
) -> None:
    """Serve a model under a policy by OpenAI's HTTP API.

    Clients get /v1/models, /v1/chat/completions and /v1/completions; /health and /metrics
    (Prometheus) are there too. Ctrl-C or SIGTERM stops it when the requests that run have ended, or
    after --grace seconds. A second Ctrl-C stops it at once.

    Exit code: 0 after it was stopped, 2 if the input cannot be used.
    """
    with clean_exit(debug=debug):
        with loading():
            from skipkv._runs import require_extra
            from skipkv.compositions import (
                described,
                model_settings,
                own_settings,
                resolve_policy,
            )

        # Everything that can be wrong without the model is found before the model is loaded.
        require_extra("serve", "starlette", "uvicorn")
        settings = model_settings(model, published=published)
        if len(set(policy)) < len(policy):
            raise InputError("--policy names a policy twice. Name each once.")
        told = {"budget": budget, "interval": interval}
        policies = {
            text: resolve_policy(text, settings=settings, budget=budget, interval=interval)
            for text in policy
        }
        check_placement(dtype, device)
        with loading():
            from skipkv.integrations.serve import HttpServer, Limits
            from skipkv.models import load
            from skipkv.runtime import Engine

            weights, tokenizer = load(
                model, dtype=dtype, device=device, trust_remote_code=trust_remote_code
            )
        given = {key: value for key, value in told.items() if value is not None}
        for text in policy:
            note = described(text, own_settings(text, settings), given)
            if note is not None:
                typer.echo(f"skipkv: {note}", err=True)
        server = HttpServer(
            {
                text: Engine(weights, tokenizer, found, batch_size=batch_size)
                for text, found in policies.items()
            },
            name=name or Path(model).name or model,
            host=host,
            port=port,
            api_key=api_key,
            limits=Limits(
                body=max_body,
                queue=queue,
                choices=max_choices,
                tokens=max_tokens,
                seconds=timeout,
                grace=grace,
            ),
        )
        if api_key is None and host not in ("127.0.0.1", "::1", "localhost"):
            typer.echo(
                f"skipkv: anybody who reaches {host} can use this server: it has no --api-key.",
                err=True,
            )
        typer.echo(
            f"skipkv: {server.name} under {', '.join(policies)} on {server.url}. Ctrl-C stops it.",
            err=True,
        )
        server.run()
        typer.echo("skipkv: stopped.", err=True)
