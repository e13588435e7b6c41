"""Compares steering vectors of the embedded model, all at the same strength.

    python benchmarks/steering_vectors.py one.safetensors other.safetensors

The full cache is steered with each vector. The strength is scaled so that strength times the
vector's length is that of the shipped vector. The table has the cosine to the shipped vector too.
"""

import json
from pathlib import Path
from typing import Annotated

import torch
import typer

from skipkv import presets, tiny
from skipkv.steerers import AdaptiveSteerer, SteeringVector
from skipkv.tiny.report import accuracy

_WEIGHTS = Path(tiny.__file__).parent / "weights"


def main(
    vectors: Annotated[list[Path], typer.Argument(help="Files of `skipkv calibrate`.")],
    limit: Annotated[int, typer.Option(help="How many problems.")] = 150,
    seed: Annotated[int, typer.Option(help="Of the problems.")] = 1,
) -> None:
    """Print a Markdown table, one row per vector."""
    torch.set_num_threads(1)
    model, tokenizer = tiny.load(device="cpu")
    asked = tiny.problems(limit, seed=seed)
    own = json.loads((_WEIGHTS / "skipkv.json").read_text())["skipkv"]
    shipped = SteeringVector.load(_WEIGHTS / own["vector"])
    print("| vector | cosine | accuracy | tokens of prompt and trace |\n|---|--:|--:|--:|")
    right, length = accuracy(model, tokenizer, presets.full(), asked)
    print(f"| none | - | {right:.1%} | {length:.0f} |")
    for path in [_WEIGHTS / own["vector"], *vectors]:
        found = SteeringVector.load(path)
        scale = float(shipped.vector.norm() / found.vector.norm())
        steerer = AdaptiveSteerer(
            found, strength=scale * own["strength"], growth=scale * own["growth"]
        )
        cosine = torch.nn.functional.cosine_similarity(found.vector, shipped.vector, dim=0)
        policy = presets.full().with_(steerer=steerer)
        right, length = accuracy(model, tokenizer, policy, asked)
        print(f"| {path.name} | {cosine:.2f} | {right:.1%} | {length:.0f} |", flush=True)


if __name__ == "__main__":
    typer.run(main)
