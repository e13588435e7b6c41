"""`skipkv eval`: what eviction costs, measured on problems with known answers."""

import sys
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from skipkv.cli.config import Config
from skipkv.cli.exits import FAILED, clean_exit, loading, resumable
from skipkv.cli.options import Debug, Device, Dtype, Published, TrustRemoteCode, path_given
from skipkv.cli.placement import check_placement
from skipkv.cli.tables import put_summary
from skipkv.errors import InputError

if TYPE_CHECKING:
    from skipkv.evaluation import Summary


def evaluate(
    model: Annotated[
        str | None,
        typer.Option(
            "--model",
            "-m",
            help="tiny or rambler (embedded models), a folder, a hub id, or a .gguf file (or its "
            "folder).",
        ),
    ] = None,
    data: Annotated[
        list[str] | None,
        typer.Option(
            "--data",
            "-d",
            help="Data sets: tiny, rambler, gsm8k, math500, aime24 (the last three from the hub), "
            "aime25, aime26, hmmt and gpqa (as NAME=FILE), FILE.jsonl or FILE.csv; comma-separated "
            "or repeated. Default: rambler for the model rambler, else tiny.",
        ),
    ] = None,
    policies: Annotated[
        list[str] | None,
        typer.Option(
            "--policies",
            "-p",
            help="Presets (see `skipkv policies`) or package.module:object, with options as in "
            "skipkv:threshold=0.9; comma-separated or repeated. The full cache is always added. "
            "Default: streaming_llm,snapkv,rkv,skipkv; for tiny, skipkv with threshold=0.7.",
        ),
    ] = None,
    budgets: Annotated[
        list[str] | None,
        typer.Option(
            "--budgets",
            "-b",
            help="Entries per KV head, in tokens (96) or percent of the full cache's mean trace "
            "(25%); comma-separated or repeated. Default: 25%,50%,75%.",
        ),
    ] = None,
    limit: Annotated[
        int | None,
        typer.Option(
            min=1, help="Use N problems of each data set only, chosen at random with --seed."
        ),
    ] = None,
    samples: Annotated[int, typer.Option(min=1, help="Samples per problem.")] = 1,
    seed: Annotated[int, typer.Option(min=0, help="Seed of --limit and of the sampling.")] = 0,
    temperature: Annotated[
        float | None,
        typer.Option(help="Sampling temperature; 0 is greedy. Default: 0; rambler 0.6."),
    ] = None,
    top_p: Annotated[
        float | None,
        typer.Option(
            help="Sample from the top probability mass; 1 is all. Default: 1; rambler 0.95."
        ),
    ] = None,
    top_k: Annotated[int, typer.Option(help="Sample from the top k tokens; 0 is all.")] = 0,
    interval: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Decode steps between two compression events. Default: 128; tiny 16, rambler 32.",
        ),
    ] = None,
    max_new_tokens: Annotated[
        int | None,
        typer.Option(
            "--max-new-tokens",
            "-n",
            min=1,
            help="Most tokens to decode per sample. Default: 8192; aime24 16384, tiny 640, "
            "rambler 1408.",
        ),
    ] = None,
    batch_size: Annotated[
        int | None,
        typer.Option(min=1, help="Sequences decoded together. Default: 8; tiny and rambler 64."),
    ] = None,
    question_field: Annotated[
        str | None,
        typer.Option(
            help="JSONL field with the question. Default: the first of question, problem, prompt."
        ),
    ] = None,
    answer_field: Annotated[
        str | None,
        typer.Option(
            help="JSONL field with the answer. Default: the first of answer, target, solution."
        ),
    ] = None,
    instruction: Annotated[
        str | None,
        typer.Option(
            help="Text after every question. Default: the papers' instruction; none for tiny and "
            "rambler."
        ),
    ] = None,
    output: Annotated[
        Path,
        typer.Option(
            "--output",
            "-o",
            metavar="DIR",
            parser=path_given,
            help="Folder for records, tables and plots. A run that is already there goes on.",
        ),
    ] = Path("skipkv-eval"),
    summarize: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            parser=path_given,
            help="Decode nothing; write the tables and plots of DIR again.",
        ),
    ] = None,
    shard: Annotated[
        str | None,
        typer.Option(
            metavar="I/N",
            help="Decode part I of N alone, counted from 0: a command for each of N processes. "
            "Budgets in percent need all parts of the full cache first: start each command twice.",
        ),
    ] = None,
    engine: Annotated[
        str | None,
        typer.Option(
            metavar="ray",
            help="ray: decode in workers of Ray, on this machine or the cluster that RAY_ADDRESS "
            "names. Needs the extra ray.",
        ),
    ] = None,
    workers: Annotated[
        int | None,
        typer.Option(
            help="Workers of --engine ray, each with a model of its own. Default: one per GPU.",
        ),
    ] = None,
    merge: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            parser=path_given,
            help="Decode nothing; check the shards of DIR, and join them in DIR.",
        ),
    ] = None,
    config: Annotated[Path | None, Config] = None,
    strict: Annotated[
        bool,
        typer.Option(
            "--strict",
            help="Exit with 1 where a row of the table is not what it seems: incomplete, mostly "
            "cut off, or nothing was evicted.",
        ),
    ] = False,
    plot_format: Annotated[str, typer.Option(help="Format of the plots: png or svg.")] = "png",
    texts: Annotated[
        bool, typer.Option("--texts/--no-texts", help="Keep the decoded texts in the records.")
    ] = True,
    retry_failed: Annotated[
        bool,
        typer.Option("--retry-failed", help="Decode samples that failed in an earlier run again."),
    ] = False,
    same_policies: Annotated[
        bool,
        typer.Option(
            "--same-policies",
            help="Go on, or merge, where a policy is described otherwise than that of the samples "
            "in the folder, as by another version of skipkv: you say that both do the same. The "
            "summary says so.",
        ),
    ] = False,
    trace_failures: Annotated[
        int,
        typer.Option(
            metavar="N",
            min=0,
            help="Trace N samples of each policy and budget that the full cache solves and the "
            "policy does not, and link their pages in the summary.",
        ),
    ] = 0,
    dtype: Dtype = "auto",
    device: Device = None,
    published: Published = False,
    trust_remote_code: TrustRemoteCode = False,
    debug: Debug = False,
) -> None:
    """Measure the accuracy of policies at several budgets.

    The full cache is measured beside them. Every sample is written to DIR as soon as it is done.
    After an interruption the same command goes on. A command with more policies, budgets or data
    sets adds to what is there. A summary is printed at the end; DIR/summary.md has all columns.
    A preset takes its missing options, but for budget and interval, from skipkv.json in the model's
    folder, if there is one; a line on stderr says what it took.

    Exit code: 0, or 1 if a sample failed or --strict finds fault, 2 if the input cannot be used,
    130 after Ctrl-C.
    """
    with clean_exit(debug=debug):
        with loading():
            from skipkv import evaluation
            from skipkv.compositions import model_settings
            from skipkv.evaluation.candidates import parse_candidates
            from skipkv.evaluation.plots import FORMATS
            from skipkv.evaluation.sweep import check_extras
            from skipkv.models import load
            from skipkv.models.loading import EMBEDDED
            from skipkv.runtime import Sampling

        # Everything that can be wrong without the model is found before the model is loaded.
        if plot_format not in FORMATS:
            raise InputError(f"--plot-format {plot_format} must be {' or '.join(FORMATS)}.")
        check_extras()
        if trace_failures and (shard is not None or merge is not None or summarize is not None):
            raise InputError(
                "--trace-failures decodes, with the records of all problems: leave out --shard, "
                "--merge and --summarize. After --merge DIR, the command without --shard and with "
                "--output DIR decodes what is traced alone."
            )
        if merge is not None and (shard is not None or summarize is not None):
            raise InputError(
                "--merge joins the folders of shards and decodes nothing: leave out --shard and "
                "--summarize."
            )
        if merge is not None:
            evaluation.merge(merge, same_policies=same_policies)
            _report(evaluation.summarize(merge, plot_format=plot_format), merge, strict=strict)
            return
        if summarize is not None:
            _report(
                evaluation.summarize(summarize, plot_format=plot_format), summarize, strict=strict
            )
            return
        if engine not in (None, "ray"):
            raise InputError(f"--engine {engine} must be ray. Without it, this process decodes.")
        if engine is None and workers is not None:
            raise InputError("--workers needs --engine ray.")
        if engine and (shard is not None or retry_failed or trace_failures):
            raise InputError(
                "--engine ray decodes all shards by itself: leave out --shard, --retry-failed and "
                "--trace-failures. When it is done, the command without --engine does the last two."
            )
        if model is None:
            raise InputError(
                "Name a model: --model tiny is the embedded one. To write the tables of an earlier "
                "run again: --summarize DIR."
            )
        check_placement(dtype, device)
        specs = [
            spec
            for text in data or [model if model in EMBEDDED else "tiny"]
            for spec in ([text] if Path(text).is_file() else text.split(","))
            if spec.strip()
        ]
        if not specs:
            raise InputError("--data names no data set. Name one, as tiny or FILE.jsonl.")
        sets = [
            evaluation.load_dataset(
                spec,
                limit=limit,
                seed=seed,
                question_field=question_field,
                answer_field=answer_field,
                instruction=instruction,
            )
            for spec in specs
        ]
        own = sets[0].defaults
        if temperature is None and len({data.defaults.temperature for data in sets}) > 1:
            raise InputError(
                "The data sets are decoded at different temperatures by default: "
                + ", ".join(f"{data.name} {data.defaults.temperature:g}" for data in sets)
                + ". Give --temperature, or a command for each."
            )
        heat = own.temperature if temperature is None else temperature
        mass = 1.0 if top_p is None else top_p
        if top_p is None and heat > 0:
            masses = {data.name: data.defaults.top_p for data in sets}
            if len(set(masses.values())) > 1:
                raise InputError(
                    "The data sets are sampled with different top-p by default: "
                    + ", ".join(f"{name} {value:g}" for name, value in masses.items())
                    + ". Give --top-p, or a command for each."
                )
            mass = own.top_p
        candidates = parse_candidates(
            policies or [own.policies],
            settings=model_settings(model, published=published),
        )
        if not candidates:
            raise InputError(
                "--policies names no policy. Name one, as rkv; full measures the full cache alone."
            )
        sweep = evaluation.Sweep(
            data=sets,
            policies=candidates,
            budgets=budgets or [own.budgets],
            sampling=Sampling(
                temperature=heat,
                top_p=mass,
                top_k=top_k,
                n=samples,
                seed=seed,
            ),
            interval=interval,
            max_new_tokens=max_new_tokens,
        )
        part = None if shard is None else evaluation.Shard.parse(shard)
        if part is not None:
            sweep.check_shard(part)
        sweep.check_folder(output if part is None else part.folder(output))
        for candidate in candidates:
            if candidate.note is not None:
                typer.echo(f"skipkv: {candidate.note}", err=True)
        if engine:
            from skipkv._runs import require_extra

            require_extra("ray", "ray")
            from skipkv.integrations.ray import run_on_ray

            with resumable(output):
                summary = run_on_ray(
                    sweep,
                    partial(
                        load, model, dtype=dtype, device=device, trust_remote_code=trust_remote_code
                    ),
                    output,
                    workers=workers,
                    batch_size=batch_size,
                    texts=texts,
                    model_name=model,
                    plot_format=plot_format,
                    same_policies=same_policies,
                )
            _report(summary, output, strict=strict)
            return
        with loading():
            weights, tokenizer = load(
                model, dtype=dtype, device=device, trust_remote_code=trust_remote_code
            )
        if part is not None:
            with resumable(part.folder(output)):
                done = sweep.run_shard(
                    weights,
                    tokenizer,
                    output,
                    shard=part,
                    batch_size=batch_size,
                    texts=texts,
                    model_name=model,
                    retry_failed=retry_failed,
                    same_policies=same_policies,
                )
            typer.echo(
                f"Shard {part} is done. After all others: skipkv eval --merge {output}"
                if done
                else f"Shard {part} waits for the full cache of other shards, which budgets in "
                "percent refer to. Start its command again when all have got so far."
            )
            return
        with resumable(output):
            summary = sweep.run(
                weights,
                tokenizer,
                output,
                batch_size=batch_size,
                texts=texts,
                model_name=model,
                plot_format=plot_format,
                retry_failed=retry_failed,
                same_policies=same_policies,
            )
            if trace_failures:
                evaluation.trace_failures(
                    sweep, weights, tokenizer, output, trace_failures, batch_size=batch_size
                )
                summary = evaluation.summarize(output, plot_format=plot_format)
        _report(summary, output, strict=strict)


# The columns that a narrow terminal does without.
_MINOR = ("non-execution", "truncated", "events", "evicted", "% of full", "effective", "tokens/s")


def _report(summary: "Summary", folder: Path, *, strict: bool = False) -> None:
    put_summary(summary.markdown(), folder / "summary.md", minor=_MINOR)
    sys.stdout.flush()
    if any(row.failed for row in summary.rows) or (strict and summary.doubts):
        raise typer.Exit(FAILED)
