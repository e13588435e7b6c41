"""`skipkv calibrate`: make a steering vector for a model."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from skipkv.cli.exits import clean_exit
from skipkv.cli.generate import as_chats
from skipkv.cli.placement import check_placement
from skipkv.cli.prompts import Prompt, read_prompts
from skipkv.errors import InputError, MissingExtraError

if TYPE_CHECKING:
    from skipkv.steerers import Calibration, Separation

TINY_QUESTIONS = 200


def calibrate(
    model: Annotated[
        str,
        typer.Option("--model", "-m", help="A folder, a hub id, or a .gguf file (or its folder)."),
    ],
    data: Annotated[
        str,
        typer.Option(
            "--data",
            "--dataset",
            metavar="FILE",
            help="Questions: a .jsonl file, a text file with one per line, - for stdin; or a data "
            "set as in `skipkv eval`: tiny, gsm8k, NAME=FILE.jsonl.",
        ),
    ],
    output: Annotated[
        str,
        typer.Option("--output", "--out", "-o", metavar="FILE", help="Where the vector goes."),
    ],
    layer: Annotated[
        str,
        typer.Option(
            help="The layer whose input will be steered, from 0; auto takes the one at which "
            "thoughts separate best."
        ),
    ] = "auto",
    traces: Annotated[
        str | None,
        typer.Option(
            metavar="FILE",
            help="JSON lines with what the model wrote for each question (`skipkv generate "
            "--json`), in the order of --data; by default traces are generated.",
        ),
    ] = None,
    field: Annotated[str, typer.Option(help="JSONL field with the question.")] = "question",
    text_field: Annotated[
        str, typer.Option(help="Field of --traces with what was written.")
    ] = "text",
    limit: Annotated[
        int | None, typer.Option(min=1, help="Use the first N questions only.")
    ] = None,
    held_out: Annotated[
        float, typer.Option(help="Share of questions kept for the last measurement.")
    ] = 0.2,
    stable: Annotated[
        float,
        typer.Option(
            help="Keep only thoughts of which at least this share of regenerations is of the same "
            "kind; 0 keeps all."
        ),
    ] = 0.0,
    regenerations: Annotated[
        int, typer.Option(min=1, help="Regenerations of each thought, with --stable.")
    ] = 10,
    question_directions: Annotated[
        int,
        typer.Option(
            min=0,
            help="Take so many principal directions of the questions' mean states out of the "
            "vector.",
        ),
    ] = 0,
    max_new_tokens: Annotated[
        int, typer.Option("--max-new-tokens", "-n", min=1, help="Tokens of a trace at most.")
    ] = 4096,
    temperature: Annotated[float, typer.Option(help="Of the traces; 0 is greedy.")] = 0.0,
    seed: Annotated[int, typer.Option(help="Seed of the sampling and of the split.")] = 0,
    batch_size: Annotated[int, typer.Option(min=1, help="Traces decoded together.")] = 8,
    work: Annotated[
        str | None,
        typer.Option(
            metavar="FOLDER",
            help="Where traces and states are kept, so that a stopped run goes on; by default "
            "OUTPUT.work.",
        ),
    ] = None,
    plot: Annotated[
        str | None,
        typer.Option(
            metavar="FILE",
            help="Where the picture of the separation goes; by default beside the output, as .png.",
        ),
    ] = None,
    chat: Annotated[
        bool | None,
        typer.Option("--chat/--raw", help="As in `skipkv generate`."),
    ] = None,
    dtype: Annotated[str, typer.Option(help="auto, float32, bfloat16 or float16.")] = "auto",
    device: Annotated[str | None, typer.Option(help="Such as cpu or cuda:0.")] = None,
    trust_remote_code: Annotated[
        bool, typer.Option("--trust-remote-code", help="Run Python code that the model brings.")
    ] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show tracebacks.")] = False,
) -> None:
    """Make a steering vector for a model from what it writes.

    Traces are cut into thoughts, which are told apart by marker words; the vector is the mean
    hidden state where thoughts of execution open, less the mean where others do. The report says
    how many thoughts of each kind there were and how far apart they lie at each layer.

    Exit code: 0, or 2 if the input cannot be used.
    """
    with clean_exit(debug=debug):
        # Everything that can be wrong without the model is found before the model is loaded.
        questions = read_questions(data, field=field, limit=limit)
        from skipkv.calibration import Settings, collect
        from skipkv.calibration.plot import plot_separation, require_matplotlib
        from skipkv.calibration.traces import read_completions
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
        picture: str | None = str(Path(output).with_suffix(".png")) if plot is None else plot
        try:
            require_matplotlib()
        except MissingExtraError as missing:
            if plot is not None:
                raise
            typer.echo(f"skipkv: no plot. {missing}", err=True)
            picture = None
        _check_folder(output)
        check_placement(dtype, device)
        settings = Settings(
            model=model,
            layers=None if number is None else (number,),
            max_new_tokens=max_new_tokens,
            temperature=temperature,
            regenerations=regenerations if stable > 0 else 0,
            seed=seed,
        )
        engine = Engine.from_pretrained(
            model,
            policy=Policy(),
            batch_size=batch_size,
            dtype=dtype,
            device=device,
            trust_remote_code=trust_remote_code,
        )
        prompts = [
            engine.encode(prompt, index=i)
            for i, prompt in enumerate(as_chats(questions, chat, engine))
        ]
        if completions is not None:
            completions = completions[: len(prompts)]
        states = collect(
            engine,
            prompts,
            folder=Path(work or f"{output}.work"),
            settings=settings,
            completions=completions,
        )
        layers = settings.layers or tuple(range(engine.model.config.num_hidden_layers))
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
        SteeringVector(vector=found.vector, layer=found.layer, model=model, made=made).save(output)
        report(found)
        typer.echo(f"\nvector of layer {found.layer} written to {output}")
        if picture is not None:
            plot_separation(found, picture)
            typer.echo(f"plot written to {picture}")
        sys.stdout.flush()


def read_questions(data: str, *, field: str, limit: int | None) -> list[Prompt]:
    """The questions named by `--data`: a data set's, with its instruction, or those of a file.

    The embedded model's come from the problems it was trained on, so that none of those it is
    evaluated on is among them.
    """
    from skipkv.evaluation.datasets import DEFAULTS, load_dataset

    name, given, _ = data.partition("=")
    if data == "tiny":
        from skipkv import tiny

        return [p.question for p in tiny.problems(limit or TINY_QUESTIONS, split="train")]
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
    """Print how many thoughts there were, and how well each layer separates them."""
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
    """The number asked for; None for auto."""
    if value == "auto":
        return None
    if not value.isdecimal():
        raise InputError(f"--layer {value} must be a number from 0, or auto.")
    return int(value)


def _check_folder(output: str) -> None:
    """Raise `InputError` where the vector could not be written after hours of work."""
    if not Path(output).absolute().parent.is_dir():
        raise InputError(f"--output {output}: there is no folder {Path(output).parent}. Make it.")
    from skipkv._runs import check_writable

    check_writable(Path(output).parent, (Path(output).name,))
