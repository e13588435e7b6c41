"""Fidelity on real weights for docs/fidelity.md: table and plot go into the page.

    python benchmarks/fidelity.py MODEL math500.jsonl --output runs/fidelity

MODEL is a folder, a hub id or a .gguf file; the page has SmolLM2-135M-Instruct (`make test-smollm`
says where its weights are). The texts are worked problems of a data set, one after the other, drawn
without replacement with a fixed seed. It resumes an earlier run in the same folder.
"""

import json
import random
from pathlib import Path
from typing import Annotated

import torch
import typer
from pages import DOCS, insert, picture

from skipkv._runs import read_lines
from skipkv.evaluation.candidates import parse_candidates
from skipkv.fidelity import Comparison, Interval, Record, Report, compare, paired
from skipkv.fidelity.plot import plot
from skipkv.models import load

POLICIES = (
    "random,random:sinks=4,streaming_llm,h2o,tova,snapkv,keydiff,keydiff:unrotated=true,sinks=4,"
    "morphkv,caote,expected_attention,lagkv,vase,vase_dkv,gkv,rkv,rkv:unrotated=true,"
    "skipkv,attended_distinct"
)
BUDGETS = (64, 96, 160)
INTERVAL, PROMPT, TOKENS = 64, 64, 384
PAIRS = {
    "attended_distinct": "h2o",
    "rkv:unrotated=true": "rkv",
    "skipkv": "rkv",
    "snapkv": "rkv",
    "lagkv": "rkv",
    "caote": "morphkv",
    "vase": "morphkv",
    "keydiff:unrotated=true,sinks=4": "random:sinks=4",
    "vase_dkv": "random:sinks=4",
}


def main(
    model: Annotated[str, typer.Argument(help="A folder, a hub id or a .gguf file.")],
    data: Annotated[Path, typer.Argument(help="JSON lines with problems and solutions.")],
    output: Annotated[Path, typer.Option(help="Folder of records, tables and plots.")],
    count: Annotated[int, typer.Option(help="How many texts.")] = 12,
    batch_size: Annotated[int, typer.Option(help="Texts fed side by side.")] = 6,
    page: Annotated[bool, typer.Option(help="Write docs/fidelity.md.")] = True,
) -> None:
    """Compare every preset with the full cache at three budgets."""
    torch.set_num_threads(1)
    loaded, tokenizer = load(model)
    comparison = Comparison(
        policies=[
            (candidate.label, candidate.policy(budget=budget, interval=INTERVAL))
            for candidate in parse_candidates([POLICIES])
            for budget in BUDGETS
        ],
        prompt_tokens=PROMPT,
        max_tokens=TOKENS,
        batch_size=batch_size,
    )
    found = compare(loaded, tokenizer, texts(data, count), comparison, folder=output)
    plot(found, output / "fidelity.png")
    if page:
        insert(DOCS / "fidelity.md", "smollm2", table(found))
        records, _ = read_lines(output / "records.jsonl", Record)
        insert(DOCS / "fidelity.md", "smollm2-pairs", pairs(records))
        picture(output / "fidelity.png", "fidelity-smollm.png")


def texts(data: Path, count: int, *, characters: int = 2200, seed: int = 0) -> list[str]:
    """Texts of several problems with their solutions; no two share a problem.

    Args:
        data: JSON lines.
        count: how many.
        characters: least length of a text.
        seed: of the draw.
    """
    problems = [json.loads(line) for line in data.read_text().splitlines()]
    random.Random(seed).shuffle(problems)
    found = []
    for _ in range(count):
        text = ""
        while len(text) < characters:
            problem = problems.pop()
            question = problem.get("problem") or problem["question"]
            solution = problem.get("solution") or problem["answer"]
            text += f"Problem: {question}\n\nSolution: {solution}\n\n"
        found.append(text)
    return found


def table(report: Report) -> str:
    """The columns for the page: a line per policy and budget, in Markdown."""
    lines = [
        "| policy | budget | KL | less the best's | 95th percentile | same top-1 % | NLL rises |",
        "|---|--:|--:|--:|--:|--:|--:|",
    ]
    for row in report.rows:
        excess = "best" if row.excess is None else _shown(row.excess)
        lines.append(
            f"| {row.policy} | {row.budget} | {_shown(row.kl)} | {excess} | {row.kl95.value:.2f} | "
            f"{100 * row.same.value:.1f} | {_shown(row.rise)} |"
        )
    return "\n".join(lines)


def pairs(records: list[Record]) -> str:
    """Differences of pairs of policies, text by text, in Markdown."""
    lines = [
        f"| KL of | less that of | {' | '.join(f'at {budget}' for budget in BUDGETS)} |",
        "|---|---|--:|--:|--:|",
    ]
    for policy, other in PAIRS.items():
        found = [paired(records, policy, other, budget=budget) for budget in BUDGETS]
        cells = " | ".join(f"{x.value:+.3f} [{x.low:+.3f}, {x.high:+.3f}]" for x in found)
        lines.append(f"| {policy} | {other} | {cells} |")
    return "\n".join(lines)


def _shown(interval: Interval) -> str:
    return f"{interval.value:.3f} [{interval.low:.3f}, {interval.high:.3f}]"


if __name__ == "__main__":
    typer.run(main)
