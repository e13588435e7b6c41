"""Texts for `skipkv fidelity`: worked problems of a data set, one after the other.

    python benchmarks/fidelity_texts.py math500.jsonl --output texts.jsonl

Problems are drawn without replacement with a fixed seed, so no two texts share one.
"""

import json
import random
from pathlib import Path
from typing import Annotated

import typer


def main(
    data: Annotated[Path, typer.Argument(help="JSON lines with problems and solutions.")],
    output: Annotated[Path, typer.Option(help="JSON lines with a text each.")],
    texts: Annotated[int, typer.Option(help="How many texts.")] = 24,
    characters: Annotated[int, typer.Option(help="Least length of a text.")] = 2200,
    seed: Annotated[int, typer.Option(help="Seed of the draw.")] = 0,
) -> None:
    """Write texts of several problems with their solutions."""
    problems = [json.loads(line) for line in data.read_text().splitlines()]
    random.Random(seed).shuffle(problems)
    with output.open("w") as file:
        for _ in range(texts):
            text = ""
            while len(text) < characters:
                problem = problems.pop()
                question = problem.get("problem") or problem["question"]
                solution = problem.get("solution") or problem["answer"]
                text += f"Problem: {question}\n\nSolution: {solution}\n\n"
            file.write(json.dumps({"text": text}) + "\n")


if __name__ == "__main__":
    typer.run(main)
