"""The sweep on the rambling reasoner for docs/rambler.md: tables and plots go into the page.

    python benchmarks/rambler.py --output runs/rambler

Every preset, a blind baseline, and SkipKV's ideas alone and together, sampled as the model is meant
to be. It resumes an earlier run in the same folder. An hour or two on one core.
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Annotated

import first_errors
import rambler_errors
import rambler_habits
import torch
import typer
from ablation import RKV
from ablation import table as compared_table
from pages import DOCS, insert, picture

from skipkv import Policy, presets
from skipkv.evaluation import Record, Sweep, load_dataset
from skipkv.evaluation.records import read_records
from skipkv.evictors import TopK
from skipkv.policy import Budget
from skipkv.runtime import Sampling
from skipkv.scorers import Random
from skipkv.steerers import AdaptiveSteerer, SteeringVector
from skipkv.tiny import rambler

BUDGETS = "6%,8%,10%,13%,18%,25%"
_VECTOR = Path(rambler.__file__).parent / "weights" / "steering.safetensors"


def main(
    output: Annotated[Path, typer.Option(help="Folder of records, tables and plots.")],
    vector: Annotated[Path, typer.Option(help="The steering vector.")] = _VECTOR,
    strengths: Annotated[str, typer.Option(help="Of the steering, at the start.")] = "0.6,1.5",
    growth: Annotated[float, typer.Option(help="Of it, per non-execution thought.")] = 0.02,
    threshold: Annotated[float, typer.Option(help="Above it a sentence is repeated.")] = 0.9,
    budgets: Annotated[str, typer.Option(help="Percent of the full trace, or tokens.")] = BUDGETS,
    limit: Annotated[int, typer.Option(help="How many problems.")] = 500,
    samples: Annotated[int, typer.Option(help="Samples of each problem.")] = 2,
    only: Annotated[str, typer.Option(help="Labels of policies, with commas; all if empty.")] = "",
    seed: Annotated[int, typer.Option(help="Of the problems and of the sampling.")] = 0,
    batch_size: Annotated[int, typer.Option(help="Sequences decoded together.")] = 100,
    page: Annotated[bool, typer.Option(help="Write docs/rambler.md.")] = True,
) -> None:
    """Measure every policy at every budget on the rambling reasoner."""
    torch.set_num_threads(1)
    loaded = SteeringVector.load(str(vector))
    steerers = {
        strength: AdaptiveSteerer(loaded, strength=float(strength), growth=growth)
        for strength in strengths.split(",")
    }
    data = load_dataset("rambler", limit=limit, seed=seed)
    sampling = Sampling(
        temperature=data.defaults.temperature, top_p=data.defaults.top_p, n=samples, seed=seed
    )
    every = policies(steerers, threshold)
    wanted = only.split(",") if only else [*every]
    if unknown := [label for label in wanted if label not in every]:
        raise typer.BadParameter(f"{unknown} are none of {[*every]}.", param_hint="--only")
    sweep = Sweep(
        data=data,
        policies={label: every[label] for label in wanted},
        budgets=budgets,
        sampling=sampling,
    )
    model, tokenizer = rambler.load(device="cpu")
    summary = sweep.run(model, tokenizer, output, model_name="rambler", batch_size=batch_size)
    records = read_records(output / "records.jsonl")[0]
    cells = chosen(records)
    asked = rambler.problems(limit, seed=seed)
    tables = {
        "sweep": compared_table(summary, records),
        "errors": first_errors.table(
            {label: [(asked[int(r.problem)], r.text or "") for r in some]
             for label, some in cells.items()},
            rambler_errors.kind_of,
            rambler_errors.KINDS,
        ),
        "habits": rambler_habits.table(
            {label: some for label, some in cells.items() if not label.endswith(("13%", "25%"))}
        ),
    }  # fmt: skip
    for name, text in tables.items():
        if page:
            insert(DOCS / "rambler.md", name, text)
        else:
            print(text, end="\n\n")
    if not page:
        return
    for kind in ("accuracy", "length"):
        picture(output / f"{kind}-rambler.png", f"rambler-{kind}.png")


def policies(
    steerers: Mapping[str, AdaptiveSteerer], threshold: float
) -> Mapping[str, Policy | Callable[..., Policy]]:
    """Every policy under its label."""

    def sentences(budget: int, interval: int) -> Policy:
        return presets.skipkv(budget, interval=interval, threshold=threshold)

    def blind(budget: int, interval: int) -> Policy:
        return Policy(
            budget=Budget(tokens=budget, interval=interval),
            scorer=Random(seed=0, fresh=False),
            evictor=TopK(),
        )

    def pooled(budget: int, interval: int) -> Policy:
        return presets.attended_distinct(budget, interval=interval, pool=3)

    def steered(
        preset: Callable[..., Policy], steerer: AdaptiveSteerer
    ) -> Callable[[int, int], Policy]:
        return lambda budget, interval: preset(budget, interval=interval).with_(steerer=steerer)

    return {
        **{f"full + steering {s}": presets.full().with_(steerer=v) for s, v in steerers.items()},
        RKV: presets.rkv,
        "rkv + sentences": sentences,
        **{f"skipkv (both) {s}": steered(sentences, v) for s, v in steerers.items()},
        **{f"rkv + steering {s}": steered(presets.rkv, v) for s, v in steerers.items()},
        "random": blind,
        "streaming_llm": presets.streaming_llm,
        "h2o": presets.h2o,
        "snapkv": presets.snapkv,
        "tova": presets.tova,
        "attended_distinct": presets.attended_distinct,
        "attended_distinct, pool 3": pooled,
        **{
            f"attended_distinct + steering {s}": steered(presets.attended_distinct, v)
            for s, v in steerers.items()
        },
    }


def chosen(records: Sequence[Record]) -> dict[str, list[Record]]:
    """The records of each cell of the full cache, and of three budgets, by a label."""
    found: dict[str, list[Record]] = {}
    for record in records:
        if record.asked in (None, "8%", "13%", "25%"):
            label = " ".join(filter(None, (record.policy, record.asked)))
            found.setdefault(label, []).append(record)
    return found


if __name__ == "__main__":
    typer.run(main)
