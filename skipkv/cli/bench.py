"""`skipkv bench`: what decoding under a policy costs, beside the model itself and full caches."""

import sys
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from skipkv.cli.exits import FAILED, clean_exit, loading, resumable
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
from skipkv.cli.tables import put_summary
from skipkv.errors import InputError, MissingExtraError

if TYPE_CHECKING:
    from skipkv.benchmark import Subject, Summary

POLICIES = "full,streaming_llm,snapkv,rkv,skipkv"
_PLOTS = ("png", "svg", "none")


def bench(
    model: Annotated[
        str,
        typer.Option(
            "--model",
            "-m",
            help="tiny (the embedded model), a folder, a hub id, a .gguf file (or its folder), or "
            "random:CONFIG.json for random weights of that architecture.",
        ),
    ] = "tiny",
    policies: Annotated[
        list[str] | None,
        typer.Option(
            "--policies",
            "-p",
            help="Presets or package.module:object, with options as in skipkv:threshold=0.9; "
            f"comma-separated or repeated. skipkv is measured with steering. Default: {POLICIES}.",
        ),
    ] = None,
    baselines: Annotated[
        str | None,
        typer.Option(
            help="floor (the model alone at the same cache length), generate_dynamic, "
            "generate_static, kvpress; or none. Default: all, but kvpress only with "
            "--kvpress-python."
        ),
    ] = None,
    batch_sizes: Annotated[
        str, typer.Option(help="Numbers of sequences decoded together, comma-separated.")
    ] = "1,8",
    budgets: Annotated[
        str, typer.Option("--budgets", "-b", help="Most entries per KV head, comma-separated.")
    ] = "256",
    interval: Annotated[
        int, typer.Option(min=1, help="Decode steps between two compression events.")
    ] = 128,
    new_tokens: Annotated[
        int, typer.Option("--new-tokens", "-n", min=2, help="Tokens to decode per sequence.")
    ] = 512,
    prompt_tokens: Annotated[int, typer.Option(min=1, help="Tokens of each prompt.")] = 128,
    repeats: Annotated[int, typer.Option(min=1, help="Rounds to measure.")] = 3,
    seed: Annotated[int, typer.Option(min=0, help="Seed of prompts and random vectors.")] = 0,
    output: Annotated[
        Path,
        typer.Option(
            "--output",
            "-o",
            metavar="DIR",
            parser=path_given,
            help="Folder for records, tables and plots. A run that is already there goes on.",
        ),
    ] = Path("skipkv-bench"),
    profile: Annotated[
        bool,
        typer.Option(
            "--profile", help="Instead of rounds, show where each policy spends its time, by phase."
        ),
    ] = False,
    kvpress_python: Annotated[
        Path | None,
        typer.Option(metavar="PATH", help="Python interpreter of an environment with kvpress."),
    ] = None,
    threads: Annotated[
        int | None, typer.Option(min=1, help="CPU threads of every run. Default: all cores.")
    ] = None,
    plots: Annotated[str, typer.Option(help="Format of the plots: png, svg or none.")] = "png",
    same_policies: SamePolicies = False,
    dtype: Dtype = "auto",
    device: Device = None,
    published: Published = False,
    trust_remote_code: TrustRemoteCode = False,
    debug: Debug = False,
) -> None:
    """Measure speed and memory of policies beside baselines.

    All of them decode the same prompts to the same length, one after the other in every round. A
    summary is printed at the end; DIR gets all tables, the same as JSON, and plots.

    Exit code: 0, or 1 if a subject failed (running out of memory is a result, not a failure), 2 if
    the input cannot be used, 130 after Ctrl-C.
    """
    with clean_exit(debug=debug):
        with loading():
            import torch

            from skipkv._runs import require_extra
            from skipkv.benchmark import BASELINES, Bench, baselines_of, policies_of
            from skipkv.benchmark.kvpress import KvpressSubject, check_interpreter, saved
            from skipkv.benchmark.profiling import profile_table
            from skipkv.compositions import model_settings
            from skipkv.models import load
            from skipkv.models.loading import folder_of

        # Everything that can be wrong without the model is found before the model is loaded.
        check_placement(dtype, device)
        if plots not in _PLOTS:
            raise InputError(f"--plots {plots} must be {', '.join(_PLOTS[:-1])} or {_PLOTS[-1]}.")
        if plots != "none" and not profile:
            try:
                require_extra("eval", "matplotlib")
            except MissingExtraError as missing:
                raise MissingExtraError(f"{missing} Or draw none: --plots none.") from missing
        named = policies or [POLICIES]
        chosen = _names(baselines, default=[b for b in BASELINES if b != "kvpress"])
        if kvpress_python is not None:
            check_interpreter(kvpress_python)
            if baselines is None:
                chosen.append("kvpress")
        cores = threads or torch.get_num_threads()
        settings = model_settings(model, published=published)

        def asked(policies: "Sequence[Subject]", folder: Path) -> Bench:
            kvpress = None
            if kvpress_python is not None:
                kvpress = KvpressSubject(python=kvpress_python, folder=folder)
            return Bench(
                subjects=[*baselines_of(chosen, kvpress=kvpress), *policies],
                batch_sizes=_numbers("--batch-sizes", batch_sizes),
                budgets=_numbers("--budgets", budgets),
                interval=interval,
                new_tokens=new_tokens,
                prompt_tokens=prompt_tokens,
                repeats=repeats,
                seed=seed,
                threads=cores,
            )

        asked(policies_of(named, settings=settings), Path()).check_folder(output)
        # One thread until a run is forked: OpenMP's others would not outlive that.
        torch.set_num_threads(1)
        with loading():
            weights, tokenizer = load(
                model, dtype=dtype, device=device, trust_remote_code=trust_remote_code
            )
        subjects = policies_of(named, settings=settings, config=weights.config, seed=seed)
        for subject in subjects:
            if subject.note is not None:
                typer.echo(f"skipkv: {subject.label}: {subject.note}", err=True)
        if profile:
            torch.set_num_threads(cores)
            typer.echo(profile_table(subjects, weights, tokenizer, asked(subjects, Path())))
            return
        with ExitStack() as stack:
            folder = Path()
            if "kvpress" in chosen:
                folder = stack.enter_context(saved(weights, folder_of(model)))
            with resumable(output):
                summary = asked(subjects, folder).run(
                    weights, tokenizer, output, model_name=model, same_policies=same_policies
                )
        _report(summary, output, plots)


def _report(summary: "Summary", output: Path, plots: str) -> None:
    from skipkv._runs import writing

    for name, text in (("summary.md", summary.markdown()), ("summary.json", summary.json() + "\n")):
        with writing(output / name):
            (output / name).write_text(text, encoding="utf-8")
    if plots != "none":
        from skipkv.benchmark.plots import plot

        plot(summary, output, plot_format=plots)
    put_summary(summary.markdown(), output / "summary.md", minor=("CPU", "p95", "first token"))
    sys.stdout.flush()
    if any(row.status == "error" for row in summary.rows):
        raise typer.Exit(FAILED)


def _names(text: str | None, *, default: list[str]) -> list[str]:
    if text is None:
        return default
    return [] if text.strip() == "none" else [n.strip() for n in text.split(",") if n.strip()]


def _numbers(option: str, text: str) -> tuple[int, ...]:
    try:
        return tuple(int(piece) for piece in text.split(",") if piece.strip())
    except ValueError:
        raise InputError(f"{option} {text} must be whole numbers, as in 1,8.") from None
