"""The sweep on the rambling reasoner for docs/rambler.md: its tables and its picture.

    python benchmarks/rambler.py --output runs/rambler

Every preset, a blind baseline, and SkipKV's ideas alone and together, sampled as the model is meant
to be: 500 problems, two samples each, about four minutes a cell on one core and ten hours in all.
So it goes in parts. What a cell gave is kept in `benchmarks/outcomes/rambler`, and a cell that is
there is not decoded again without `--again`. `--only` and `--budgets` choose, `--no-decode` writes
the page alone. A run that was stopped goes on in the same folder. Two processes need a folder each,
and labels of their own.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any

import attrs
import rambler_errors
import rambler_habits
import torch
import typer
from curves import axes_of, curve, level
from members import MEMBERS as PRESETS
from outcomes import FOLDER, Key, Outcomes, OutcomesFolder
from pages import DOCS, insert, interval

from skipkv import Policy, __version__, presets
from skipkv.evaluation import Candidate, Record, Sweep, load_dataset
from skipkv.evaluation.plots import styles
from skipkv.evaluation.records import read_records
from skipkv.evictors import TopK
from skipkv.policy import Budget
from skipkv.runtime import Sampling
from skipkv.scorers import Random
from skipkv.steerers import AdaptiveSteerer, SteeringVector
from skipkv.tiny import rambler

BUDGETS = "8%,13%,18%,25%,50%,75%"
RKV, FULL = "rkv", "full"
PROBLEMS, SAMPLES, SEED = 500, 2, 0
THRESHOLD, STRENGTH, GROWTH = 0.9, 1.5, 0.02
SHOWN = (
    *("attended_distinct, pool 3", "attended_distinct", "skipkv (both) 1.5", "rkv + steering 1.5"),
    *("rkv + sentences", "rkv", "random", "snapkv", "h2o", "streaming_llm"),
)
"""The policies of the picture and of the tables of single traces, as far as they are measured."""
_VECTOR = Path(rambler.__file__).parent / "weights" / "steering.safetensors"
_OF_TINY = ("trimkv", "kvzap", "triattention", "skipkv:threshold=0.7", "random")
"""Their files, or their settings, are those of the other model; `random` has labels of its own."""


def main(
    output: Annotated[Path, typer.Option(help="Folder of records.")] = Path("runs/rambler"),
    budgets: Annotated[str, typer.Option(help="Percent of the full trace.")] = BUDGETS,
    only: Annotated[str, typer.Option(help="Labels, with semicolons; all if empty.")] = "",
    batch_size: Annotated[int, typer.Option(help="Sequences decoded together.")] = 100,
    decode: Annotated[bool, typer.Option(help="Decode the cells that are missing.")] = True,
    again: Annotated[bool, typer.Option(help="Decode the others too, for their texts.")] = False,
    page: Annotated[bool, typer.Option(help="Write docs/rambler.md.")] = True,
) -> None:
    """Measure the presets at six budgets on the rambling reasoner."""
    torch.set_num_threads(1)
    every = candidates()
    wanted = only.split(";") if only else [*every]
    if unknown := [label for label in wanted if label not in every]:
        raise typer.BadParameter(f"{unknown} are none of {[*every]}.", param_hint="--only")
    data = load_dataset("rambler", limit=PROBLEMS, seed=SEED)
    kept = OutcomesFolder(FOLDER / "rambler", settings())
    if decode:
        loaded = rambler.load(device="cpu")
        sampling = Sampling(
            temperature=data.defaults.temperature, top_p=data.defaults.top_p, n=SAMPLES, seed=SEED
        )
        for asked in budgets.split(","):
            for label in wanted:
                if not again and ({(label, asked), (label, None)} & kept.read().keys()):
                    continue
                part = Sweep(data=data, policies=[every[label]], budgets=asked, sampling=sampling)
                part.run(*loaded, output, model_name="rambler", batch_size=batch_size)
                for cell in folded(output, every[label]):
                    kept.add(cell)
    cells = kept.read()
    if page:
        drawn(cells).savefig(DOCS / "images" / "rambler.png", dpi=150)
    for name, text in tables(cells).items():
        if page:
            insert(DOCS / "rambler.md", name, text)
        else:
            print(text, end="\n\n")


def settings() -> dict[str, object]:
    """What all outcomes share."""
    data = load_dataset("rambler", limit=PROBLEMS, seed=SEED)
    return {"problems": PROBLEMS, "samples": SAMPLES, "seed": SEED, "content": data.fingerprint}


def candidates() -> dict[str, Candidate]:
    """The policies, each to be built at any budget, by label."""
    found = {
        label: Candidate.parse(source)
        for label, (source, _) in PRESETS.items()
        if not source.startswith(_OF_TINY)
    }
    for label, source in compositions().items():
        found[label] = Candidate(label=label, source=source)
    found["random, drawn anew"] = Candidate.parse("random")
    return {label: attrs.evolve(candidate, label=label) for label, candidate in found.items()}


def compositions() -> dict[str, Policy | Callable[..., Policy]]:
    """Policies with a file or a setting of this model, or none in the list of presets, by label."""
    vector = SteeringVector.load(str(_VECTOR))
    steerer = AdaptiveSteerer(vector, strength=STRENGTH, growth=GROWTH)

    def sentences(budget: int, interval: int) -> Policy:
        return presets.skipkv(budget, interval=interval, threshold=THRESHOLD)

    def blind(budget: int, interval: int) -> Policy:
        return Policy(
            budget=Budget(tokens=budget, interval=interval),
            scorer=Random(seed=0, fresh=False),
            evictor=TopK(),
        )

    def pooled(budget: int, interval: int) -> Policy:
        return presets.attended_distinct(budget, interval=interval, pool=3)

    def steered(preset: Callable[..., Policy]) -> Callable[[int, int], Policy]:
        return lambda budget, interval: preset(budget, interval=interval).with_(steerer=steerer)

    return {
        f"full + steering {STRENGTH}": presets.full().with_(steerer=steerer),
        "rkv + sentences": sentences,
        f"skipkv (both) {STRENGTH}": steered(sentences),
        f"rkv + steering {STRENGTH}": steered(presets.rkv),
        "random": blind,
        "streaming_llm": presets.streaming_llm,
        "tova": presets.tova,
        "attended_distinct, pool 3": pooled,
        f"attended_distinct + steering {STRENGTH}": steered(presets.attended_distinct),
    }


def folded(folder: Path, candidate: Candidate) -> list[Outcomes]:
    """The outcomes of the whole cells of a policy, and of the full cache, in a run's folder."""
    problems = rambler.problems(PROBLEMS, seed=SEED)
    groups: dict[Key, list[Record]] = {}
    for record in read_records(folder / "records.jsonl")[0]:
        if record.policy in (candidate.label, FULL):
            groups.setdefault((record.policy, record.asked), []).append(record)
    found = []
    for (label, asked), some in groups.items():
        some.sort(key=lambda r: (int(r.problem), r.sample))
        if len(some) < PROBLEMS * SAMPLES:
            continue  # a run that was stopped
        if failed := [r.error for r in some if r.failed]:
            raise ValueError(f"{label} at {asked}: {len(failed)} samples failed: {failed[:3]}.")
        kinds: dict[str, list[int]] = {}
        for number, record in enumerate(some):
            kind = rambler_errors.kind_of(problems[int(record.problem)], record.text or "")
            if (kind == "right") != record.correct:
                raise ValueError(f"{label} at {asked}: sample {number} is {kind}, and graded so.")
            if kind != "right":
                kinds.setdefault(kind, []).append(number)
        policy = None if label == FULL else candidate.policy(budget=some[0].budget, interval=32)
        found.append(
            Outcomes(
                policy=label,
                asked=asked,
                budget=some[0].budget,
                composition=repr(policy),
                versions={"skipkv": __version__, "torch": torch.__version__},
                samples=SAMPLES,
                kinds=kinds,
                tokens=[r.new_tokens for r in some],
                counts=rambler_habits.counts(some),
            )
        )
    return found


def tables(cells: dict[Key, Outcomes]) -> dict[str, str]:
    """The tables of the page, in Markdown, by name."""
    full, others = cells[FULL, None], {**cells, **unbounded(cells, but=FULL)}

    def to_rkv(cell: Outcomes) -> str:
        rival = cells.get((RKV, cell.asked))
        return "-" if rival in (None, cell) else interval(cell.points_to(rival), "+.1f")

    to_others = matrix(cells, to_rkv)
    return {
        "accuracy": accuracies(cells),
        "differences": "\n\n".join(
            [
                "To the full cache, in points:",
                matrix(others, lambda cell: interval(cell.points_to(full), "+.1f")),
                *(["To `rkv` at the same budget:", to_others] if to_others else []),
            ]
        ),
        "length": matrix(
            others,
            lambda cell: f"{interval(cell.longer_than(full), '+.1f')}; {cell.share('no end'):.1f}",
        ),
        "errors": errors(some_of(cells, ["8%", "13%", "25%"])),
        "habits": rambler_habits.table({title(cell): cell for cell in some_of(cells, ["8%"])}),
    }


def drawn(cells: dict[Key, Outcomes]) -> Any:
    """The picture of the page: accuracy against the budget of the policies in `SHOWN`."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8.6, 4.4))
    FigureCanvasAgg(figure)
    axes = axes_of(figure, (1, 1, 1), f"rambler: {PROBLEMS} problems, two samples each")
    handles = {"full cache": level(axes, cells[FULL, None].accuracy)}
    for label, style in zip(SHOWN, styles(SHOWN), strict=True):
        found = {
            float(share.removesuffix("%")): cells[label, share].accuracy
            for share in BUDGETS.split(",")
            if (label, share) in cells
        }
        if found:
            handles[label] = curve(axes, found, style)
    axes.set_xscale("log")
    shares = [float(share.removesuffix("%")) for share in BUDGETS.split(",")]
    axes.set_xticks(shares, [f"{share:g}" for share in shares])
    axes.minorticks_off()
    figure.legend(handles.values(), handles.keys(), loc="center right", frameon=False, fontsize=9)
    figure.tight_layout(rect=(0, 0, 0.74, 1))
    return figure


def accuracies(cells: dict[Key, Outcomes]) -> str:
    """Right answers in percent, by policy and budget, in Markdown."""
    return matrix({**cells, **unbounded(cells)}, lambda cell: interval(cell.accuracy, ".1f"))


def unbounded(cells: dict[Key, Outcomes], but: str = "") -> dict[Key, Outcomes]:
    """The cells without a budget, at every budget; all but those of one policy."""
    return {
        (label, share): cell
        for (label, asked), cell in cells.items()
        if asked is None and label != but
        for share in BUDGETS.split(",")
    }


def matrix(cells: dict[Key, Outcomes], told: Callable[[Outcomes], str]) -> str:
    """A row for each policy and a column for each budget; empty if nothing is told of any."""
    shares, lines = BUDGETS.split(","), []
    for label in ordered(cells):
        row = [told(cells[label, s]) if (label, s) in cells else "-" for s in shares]
        if {*row} != {"-"}:
            lines.append(f"| {label} | {' | '.join(row)} |")
    head = f"| policy | {' | '.join(shares)} |\n|---|" + "--:|" * len(shares)
    return "\n".join([head, *lines]) if lines else ""


def ordered(cells: dict[Key, Outcomes]) -> list[str]:
    """The labels, the best at the smallest budget first."""
    best = {label: -1.0 for label, asked in cells if asked is not None}
    for (label, asked), cell in cells.items():
        if asked == BUDGETS.partition(",")[0]:
            best[label] = cell.accuracy.value
    return sorted(best, key=lambda label: -best[label])


def some_of(cells: dict[Key, Outcomes], shares: Sequence[str]) -> list[Outcomes]:
    """The cells without a budget, and those of `SHOWN` at these budgets, as far as measured."""
    whole = sorted(label for label, asked in cells if asked is None)  # the full cache's first
    keys = [*((label, None) for label in whole), *((label, s) for label in SHOWN for s in shares)]
    return [cells[key] for key in keys if key in cells]


def errors(cells: Sequence[Outcomes]) -> str:
    """What the traces of each cell die of, in Markdown."""
    kinds = rambler_errors.KINDS
    lines = [f"| % of traces | {' | '.join(kinds)} |", "|---|" + "--:|" * len(kinds)]
    for cell in cells:
        lines.append(f"| {title(cell)} | {' | '.join(f'{cell.share(k):.1f}' for k in kinds)} |")
    return "\n".join(lines)


def title(cell: Outcomes) -> str:
    """A cell's policy and budget."""
    return cell.policy if cell.asked is None else f"{cell.policy} {cell.asked}"


if __name__ == "__main__":
    typer.run(main)
