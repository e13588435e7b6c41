"""The presets at six budgets on the embedded model, for the section of members in docs/results.md.

    python benchmarks/members.py --output runs/members

It resumes an earlier run in the same folder. About an hour and a half on one core. For two, start
it once with `--shard 0/2` and once with `--shard 1/2`, both twice (budgets in percent need the full
cache's traces of both), then `skipkv eval --merge runs/members`, and the command above writes the
page. `streaming_llm`, `tova` and `skipkv` as published are in the sweep of benchmarks/results.py.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated

import attrs
import torch
import typer
from pages import DOCS, insert, interval
from results import BUDGETS

from skipkv import tiny
from skipkv.evaluation import Candidate, Estimate, Shard, Summary, Sweep, load_dataset

_FILES = Path(tiny.__file__).parent / "weights"
_TRIMKV = f"trimkv:gate={_FILES / 'trimkv.safetensors'}"
_KVZAP = f"kvzap:gate={_FILES / 'kvzap.safetensors'}"
_TRIATTENTION = f"triattention:queries={_FILES / 'queries.safetensors'}"

KEYS, VALUES, QUERIES = "keys", "values", "the window's queries"
ATTENTION, WRITTEN = "attention since written", "the state at writing"

MEMBERS = {
    "attended_distinct": ("attended_distinct", f"{ATTENTION}; {KEYS}"),
    "rkv": ("rkv", f"{QUERIES}; {KEYS}"),
    "rkv:unrotated=true": ("rkv:unrotated=true", f"{QUERIES}; {KEYS}"),
    "skipkv:threshold=0.7": ("skipkv:threshold=0.7", f"{QUERIES}; {KEYS}; sentences"),
    "h2o": ("h2o", ATTENTION),
    "random": ("random", "nothing"),
    "random:prompt=true": ("random:prompt=true", "nothing"),
    "triattention": (_TRIATTENTION, f"{KEYS}; statistics"),
    "kvzap": (_KVZAP, WRITTEN),
    "trimkv": (_TRIMKV, WRITTEN),
    "keydiff": ("keydiff", KEYS),
    "keydiff:unrotated=true": ("keydiff:unrotated=true", KEYS),
    "expected_attention": ("expected_attention", f"{QUERIES}; {VALUES}"),
    "lagkv": ("lagkv", f"{KEYS} and {VALUES}"),
    "vase_dkv": ("vase_dkv", f"{KEYS} and {VALUES}"),
    "vase": ("vase", f"{QUERIES}; {VALUES}"),
    "gkv": ("gkv", f"{QUERIES}, now and before; {KEYS}"),
    "raas": ("raas", ATTENTION),
    "lazy_eviction": ("lazy_eviction", ATTENTION),
    "caote": ("caote", f"{QUERIES}; {VALUES}"),
    "snapkv": ("snapkv", QUERIES),
    "morphkv": ("morphkv", QUERIES),
    "adakv": ("adakv", f"{QUERIES}; all heads of a layer"),
    "pyramidkv": ("pyramidkv", QUERIES),
}  # fmt: skip
"""Label -> the policy as the command line has it, and what it looks at."""


def main(
    output: Annotated[Path, typer.Option(help="Folder of records, tables and plots.")],
    limit: Annotated[int, typer.Option(help="How many problems.")] = 500,
    only: Annotated[str, typer.Option(help="Labels, with semicolons; all if empty.")] = "",
    shard: Annotated[str, typer.Option(help="I/N: decode a part of the problems alone.")] = "",
    page: Annotated[bool, typer.Option(help="Write docs/results.md.")] = True,
) -> None:
    """Measure the presets at six budgets on the embedded model."""
    torch.set_num_threads(1)
    chosen = [label for label in MEMBERS if not only or label in only.split(";")]
    free = [label for label in chosen if not keeps_prompt(label)]
    kept = [label for label in chosen if keeps_prompt(label)]
    data, loaded = load_dataset("tiny", limit=limit), tiny.load(device="cpu")
    for labels, budgets in ((free, BUDGETS), (kept, BUDGETS.partition(",")[2])):
        named = [attrs.evolve(candidate(label), label=label) for label in labels]
        sweep = Sweep(data=data, policies=named, budgets=budgets)
        if shard:
            part = Shard.parse(shard)
            sweep.run_shard(*loaded, output, shard=part, model_name="tiny", batch_size=125)
        else:
            summary = sweep.run(*loaded, output, model_name="tiny", batch_size=125)
    if shard:
        return
    text = table(summary)
    if page:
        insert(DOCS / "results.md", "members", text)
    else:
        print(text)


def candidate(label: str) -> Candidate:
    """The policy of a label, to be built at any budget."""
    return Candidate.parse(MEMBERS[label][0])


def keeps_prompt(label: str) -> bool:
    """Whether it keeps the prompt, for which the smallest budget has no room."""
    budget = candidate(label).policy(budget=1024, interval=16).budget
    assert budget is not None
    return budget.prompt


def table(summary: Summary) -> str:
    """Accuracy by policy and budget, the full cache first, then the best at 40 %, in Markdown."""
    shares = BUDGETS.split(",")
    found: dict[str, dict[str, Estimate]] = {}
    full: dict[str, Estimate] = {}
    for row in summary.rows:
        accuracy = row.accuracy.scaled(100)
        if row.cell.asked is None:
            full = dict.fromkeys(shares, accuracy)
        else:
            found.setdefault(row.cell.policy, {})[row.cell.asked] = accuracy
    best = sorted(found, key=lambda label: -found[label][shares[2]].value)
    lines = [
        f"| policy | reads | {' | '.join(shares)} |",
        "|---|---|" + "--:|" * len(shares),
        _row("full", "everything is kept", full, shares),
        *(_row(f"`{label}`", MEMBERS[label][1], found[label], shares) for label in best),
    ]
    return "\n".join(lines)


def _row(name: str, reads: str, cells: Mapping[str, Estimate], shares: Sequence[str]) -> str:
    texts = [interval(cells[share], ".1f") if share in cells else "-" for share in shares]
    return f"| {name} | {reads} | {' | '.join(texts)} |"


if __name__ == "__main__":
    typer.run(main)
