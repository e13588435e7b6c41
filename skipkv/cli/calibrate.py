"""`skipkv calibrate`: make a steering vector for a model, and estimate what else it needs."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from skipkv.cli.exits import clean_exit, loading, resumable
from skipkv.cli.generate import as_chats, check_known
from skipkv.cli.options import Debug, Device, Dtype, TrustRemoteCode, path_given
from skipkv.cli.placement import check_placement
from skipkv.cli.prompts import Prompt, read_prompts
from skipkv.errors import InputError, MissingExtraError

if TYPE_CHECKING:
    from skipkv.steerers import Calibration, Separation

OWN_QUESTIONS = 200
MAX_NEW_TOKENS, BATCH_SIZE = 4096, 8


def calibrate(
    model: Annotated[
        str,
        typer.Option(
            "--model",
            "-m",
            help="tiny (the embedded model), a folder, a hub id, or a .gguf file (or its folder).",
        ),
    ],
    data: Annotated[
        str,
        typer.Option(
            "--data",
            "--dataset",
            "-d",
            metavar="FILE",
            help="Questions: a .jsonl file, a text file with one per line, - for stdin; or a data "
            "set as in `skipkv eval`: tiny, gsm8k, NAME=FILE.jsonl.",
        ),
    ],
    output: Annotated[
        Path,
        typer.Option(
            "--output",
            "--out",
            "-o",
            metavar="FILE",
            parser=path_given,
            help="The file the vector is written to.",
        ),
    ] = Path("vector.safetensors"),
    queries: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            parser=path_given,
            help="Also write what the model's queries are like on average in the traces, which "
            "the policy triattention needs.",
        ),
    ] = None,
    threshold: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            parser=path_given,
            help="Also estimate the similarity above which a sentence counts as repeated, and "
            "write it to this file of settings; its other entries stay. With skipkv.json in the "
            "model's folder, skipkv:threshold=calibrated takes it.",
        ),
    ] = None,
    layer: Annotated[
        str,
        typer.Option(
            help="The layer whose input will be steered, from 0; auto takes the one at which "
            "thoughts are told apart best."
        ),
    ] = "auto",
    traces: Annotated[
        str | None,
        typer.Option(
            metavar="FILE",
            help="JSON lines with the model's text for each question (`skipkv generate "
            "--json`), in the order of --data. Default: traces are generated.",
        ),
    ] = None,
    field: Annotated[str, typer.Option(help="JSONL field with the question.")] = "question",
    text_field: Annotated[
        str, typer.Option(help="JSONL field of --traces with the model's text.")
    ] = "text",
    limit: Annotated[
        int | None, typer.Option(min=1, help="Use the first N questions only.")
    ] = None,
    held_out: Annotated[
        float,
        typer.Option(help="Share of questions that only measure the vector and do not make it."),
    ] = 0.2,
    stable: Annotated[
        float,
        typer.Option(
            help="Regenerate every thought, and keep those of which at least this share of "
            "regenerations is of the same kind; 0 keeps all."
        ),
    ] = 0.0,
    regenerations: Annotated[
        int, typer.Option(min=1, help="Regenerations per thought, where --stable is given.")
    ] = 10,
    question_directions: Annotated[
        int,
        typer.Option(
            min=0,
            help="Remove this many principal directions of the questions' mean states from the "
            "vector.",
        ),
    ] = 0,
    max_new_tokens: Annotated[
        int | None,
        typer.Option(
            "--max-new-tokens",
            "-n",
            min=1,
            help=f"Most tokens of a trace. Default: {MAX_NEW_TOKENS}; tiny 640.",
        ),
    ] = None,
    temperature: Annotated[
        float | None,
        typer.Option(
            help="Sampling temperature of the traces; 0 is greedy. Default: 0; rambler 0.6."
        ),
    ] = None,
    seed: Annotated[
        int, typer.Option(help="Seed of the sampling, and of the split into parts.")
    ] = 0,
    batch_size: Annotated[
        int | None,
        typer.Option(
            min=1, help=f"Traces decoded together. Default: {BATCH_SIZE}; tiny and rambler 64."
        ),
    ] = None,
    work: Annotated[
        Path | None,
        typer.Option(
            parser=path_given,
            metavar="FOLDER",
            help="Folder that keeps traces and states, so that a stopped run goes on. Default: "
            "OUTPUT.work.",
        ),
    ] = None,
    plot: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            parser=path_given,
            help="File for the plot of the separation. Default: beside the output, as .png.",
        ),
    ] = None,
    chat: Annotated[
        bool | None,
        typer.Option(
            "--chat/--raw",
            help="Wrap text questions in the tokenizer's chat template, or not. Default: where it "
            "has one.",
        ),
    ] = None,
    dtype: Dtype = "auto",
    device: Device = None,
    trust_remote_code: TrustRemoteCode = False,
    debug: Debug = False,
) -> None:
    """Make a steering vector for a model from its own traces.

    Traces are cut into thoughts, and marker words tell the kind of each. The vector is the mean
    hidden state where thoughts of execution open, minus the mean where other thoughts open. The
    report counts the thoughts of each kind, and says how well each layer tells them apart.
    On the embedded model: `skipkv calibrate --model tiny --data tiny`.

    Exit code: 0, or 2 if the input cannot be used, or 130 after Ctrl-C.
    """
    with clean_exit(debug=debug):
        # Everything that can be wrong without the model is found before the model is loaded.
        with loading():
            questions = read_questions(data, field=field, limit=limit)
        if len(questions) < 3:
            raise InputError(
                f"--data {data} gives {len(questions)} questions. Calibration needs at least 3 "
                "questions: two to make and validate the vector, one to hold out."
            )
        with loading():
            from skipkv._settings import check_settings, store_calibrated
            from skipkv.calibration import (
                QuerySums,
                RepeatThreshold,
                SentencePairs,
                Settings,
                collect,
            )
            from skipkv.calibration.plot import plot_separation, require_matplotlib
            from skipkv.calibration.traces import read_completions
            from skipkv.evaluation.datasets import DEFAULTS
            from skipkv.models import imprint_of
            from skipkv.models.loading import EMBEDDED
            from skipkv.policy import Policy
            from skipkv.runtime import Engine
            from skipkv.steerers import SteeringVector
            from skipkv.steerers import calibrate as make
            from skipkv.steerers.calibration import Options

        Options(
            stable=stable, question_directions=question_directions, held_out=held_out, seed=seed
        )
        number = _layer(layer)
        completions = None if traces is None else read_completions(traces, text=text_field)
        written: dict[Path, str] = {}
        for option, file in (
            ("--output", output), ("--queries", queries), ("--threshold", threshold),
        ):  # fmt: skip
            if file is None:
                continue
            _check_folder(option, file)
            other = written.setdefault(file.resolve(), option)
            if other != option:
                raise InputError(
                    f"{option} {file} is the file of {other} too, and one would replace the "
                    "other. Name another file."
                )
        picture: Path | None = output.with_suffix(".png") if plot is None else plot
        try:
            require_matplotlib()
        except MissingExtraError as missing:
            if plot is not None:
                raise
            typer.echo(f"skipkv: no plot. {missing}", err=True)
            picture = None
        if threshold is not None:
            check_settings(threshold)
        check_placement(dtype, device)
        own = next((DEFAULTS[name] for name in (model, data) if name in EMBEDDED), None)
        if temperature is None:
            temperature = own.temperature if own else 0.0
        if max_new_tokens is None:
            max_new_tokens = own.max_new_tokens if own else MAX_NEW_TOKENS
        if batch_size is None:
            batch_size = own.batch_size if own else BATCH_SIZE
        settings = Settings(
            model=model,
            layers=None if number is None else (number,),
            max_new_tokens=max_new_tokens,
            temperature=temperature,
            regenerations=regenerations if stable > 0 else 0,
            seed=seed,
        )
        with loading():
            engine = Engine.from_pretrained(
                model,
                policy=Policy(),
                batch_size=batch_size,
                dtype=dtype,
                device=device,
                trust_remote_code=trust_remote_code,
            )
        check_known(questions, engine)
        prompts = [
            engine.encode(prompt, index=i)
            for i, prompt in enumerate(as_chats(questions, chat, engine))
        ]
        if completions is None:
            # Called for its checks: no folder is made for prompts that cannot be decoded.
            engine.generate(prompts, max_new_tokens=max_new_tokens)
        else:
            completions = completions[: len(prompts)]
        sums = None if queries is None else QuerySums(engine.model)
        pairs = None if threshold is None else SentencePairs(engine)
        watchers = [one.add for one in (sums, pairs) if one is not None]
        folder = work or output.with_name(f"{output.name}.work")
        with resumable(folder):
            states = collect(
                engine,
                prompts,
                folder=folder,
                settings=settings,
                completions=completions,
                watch=watchers,
            )
        if sums is not None:
            assert queries is not None
            sums.statistics(model=model).save(queries)
            typer.echo(f"statistics of queries written to {queries}")
        layers = settings.layers or tuple(
            range(engine.model.config.get_text_config(decoder=True).num_hidden_layers)
        )
        found = make(
            states,
            layers=layers,
            layer=number,
            stable=stable,
            question_directions=question_directions,
            held_out=held_out,
            seed=seed,
        )
        made = (
            f"skipkv calibrate: {len(states)} traces, thoughts {found.counts}, stable={stable}, "
            f"question_directions={question_directions}, seed={seed}"
        )
        SteeringVector(
            vector=found.vector,
            layer=found.layer,
            model=model,
            made=made,
            imprint=imprint_of(engine.model),
        ).save(output)
        report(found)
        typer.echo(f"\nvector of layer {found.layer} written to {output}")
        if picture is not None:
            plot_separation(found, str(picture))
            typer.echo(f"plot written to {picture}")
        if pairs is not None:
            assert threshold is not None
            repeats = RepeatThreshold.of(pairs.traces)
            store_calibrated(
                threshold,
                "skipkv",
                {"threshold": repeats.threshold.value},
                made=f"skipkv calibrate: {repeats.summary}, seed={seed}",
            )
            typer.echo(f"\n{repeats.report}\nthreshold written to {threshold}")
        sys.stdout.flush()


def read_questions(data: str, *, field: str, limit: int | None) -> list[Prompt]:
    """The questions named by `--data`: of a data set, with its instruction, or of a file.

    Questions of `tiny` and `rambler` are training problems, so they hold none that `skipkv eval`
    uses.
    """
    from skipkv.evaluation.datasets import DEFAULTS, load_dataset
    from skipkv.models.loading import EMBEDDED

    name, given, _ = data.partition("=")
    if data in EMBEDDED:
        from skipkv.tiny import problems_of

        return [p.question for p in problems_of(data, limit or OWN_QUESTIONS, split="train")]
    if given or name in DEFAULTS:
        found = load_dataset(data, limit=limit)
        instruction = found.defaults.instruction
        return [f"{problem.question}\n{instruction}" for problem in found.problems]
    if data != "-" and not Path(data).exists():
        raise InputError(
            f"--data {data}: there is no such file, and no data set of that name. Known are "
            f"{', '.join(DEFAULTS)}."
        )
    return read_prompts([], source=data, field=field, limit=limit)


def report(found: "Calibration") -> None:
    """Print the number of thoughts of each kind, and how well each layer separates them."""
    typer.echo(f"{'thoughts':<12}{'execution':>10}{'reflection':>12}{'transition':>12}")
    for name, counts in (("used", found.counts), ("held out", found.held_out_counts)):
        typer.echo(f"{name:<12}{counts[0]:>10}{counts[1]:>12}{counts[2]:>12}")
    if found.unstable:
        typer.echo(f"left out as unstable: {found.unstable}")
    typer.echo(f"\n{'':<8}{'cross-validated':>24}{'held-out questions':>26}")
    heading = f"{'d-prime':>10}{'ROC':>7}{'acc.':>7}"
    typer.echo(f"{'layer':<8}{heading}  {heading}")
    held_out = found.held_out or (None,) * len(found.layers)
    for layer, inside, outside in zip(found.layers, found.validated, held_out, strict=True):
        mark = " *" if layer == found.layer else ""
        typer.echo(f"{f'{layer}{mark}':<8}{_row(inside)}  {_row(outside)}")


def _row(separation: "Separation | None") -> str:
    if separation is None:
        return f"{'-':>10}{'-':>7}{'-':>7}"
    return f"{separation.d_prime:>10.2f}{separation.auc:>7.3f}{separation.accuracy:>7.3f}"


def _layer(value: str) -> int | None:
    """The number of the layer; None for auto."""
    if value == "auto":
        return None
    if not value.isdecimal():
        raise InputError(f"--layer {value} must be a number from 0, or auto.")
    return int(value)


def _check_folder(option: str, file: Path) -> None:
    """Raise `InputError` if the folder of a file does not exist, before hours of work."""
    if not file.absolute().parent.is_dir():
        raise InputError(f"{option} {file}: there is no folder {file.parent}. Make it.")
    from skipkv._runs import check_writable

    check_writable(file.parent, (file.name,))
