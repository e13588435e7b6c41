"""Trains write gates for the embedded model, from the attention that its own traces pay later.

    python benchmarks/write_gates.py gates

Each step reads training traces with the full cache. The target of an entry is, per KV head, for
`kvzap` the logarithm of the largest weight that a query head of a token after the window pays to
it. For `trimkv` it is how fast the entry may fade: by a half until the last token that pays more
than a threshold. Two files are written, and how well targets are met on other traces is printed.
"""

import random
from pathlib import Path
from typing import Annotated

import torch
import typer
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import gelu, logsigmoid

from skipkv import tiny
from skipkv.models import imprint_of
from skipkv.scorers import WriteGate
from skipkv.tiny.problem import TRAIN, draw
from skipkv.tiny.traces import write_trace
from skipkv.tiny.vocabulary import IDS

WINDOW = 8
USED = 0.01
_WORTH, _FADING = "kvzap", "trimkv"


def traces(count: int, *, seed: str) -> list[Int[Tensor, "1 T"]]:
    """Token ids of traces of the training split."""
    rng = random.Random(f"{TRAIN}/gates/{seed}")
    return [
        torch.tensor([[IDS[token] for token in write_trace(draw(rng), rng).tokens]])
        for _ in range(count)
    ]


@torch.no_grad()
def seen(
    model: torch.nn.Module, ids: Int[Tensor, "1 T"]
) -> tuple[Float[Tensor, "N T E"], dict[str, Float[Tensor, "N T H"]], Int[Tensor, "t"]]:
    """What enters each layer, the targets, and the positions that have a target."""
    output = model(ids, output_attentions=True, output_hidden_states=True)
    hidden = torch.cat(output.hidden_states[:-1])  # [N T E]
    paid = torch.cat(output.attentions)  # [N Q T T]
    paid = paid.unflatten(1, (model.config.num_key_value_heads, -1)).amax(dim=2)  # [N H T T]
    count = ids.shape[1]
    places = torch.arange(count)
    later = (places[:, None] >= places + WINDOW) * paid
    worth = later.amax(dim=2).clamp_min(1e-6).log()
    last = torch.where(later > USED, places[:, None], places).amax(dim=2)
    fading = (torch.log(torch.tensor(2.0)) / (last - places + 1)).log()
    targets = {_WORTH: worth.mT, _FADING: fading.mT}
    return hidden, targets, places[: count - WINDOW]


class Trained(torch.nn.Module):
    """The weights of a gate while they are trained."""

    def __init__(self, layers: int, width: int, units: int, heads: int) -> None:
        super().__init__()
        self.inner = torch.nn.Parameter(torch.randn(layers, width, units) / width**0.5)
        self.inner_bias = torch.nn.Parameter(torch.zeros(layers, units))
        self.outer = torch.nn.Parameter(torch.randn(layers, units, heads) / units**0.5)
        self.outer_bias = torch.nn.Parameter(torch.zeros(layers, heads))

    def forward(self, hidden: Float[Tensor, "N T E"]) -> Float[Tensor, "N T H"]:
        """As `WriteGate` computes it, for all layers at once."""
        states = hidden * hidden.square().mean(dim=-1, keepdim=True).add(1e-6).rsqrt()
        states = gelu(states @ self.inner + self.inner_bias[:, None])
        return states @ self.outer + self.outer_bias[:, None]


def predicted(kind: str, said: Float[Tensor, "N T H"]) -> Float[Tensor, "N T H"]:
    """What a gate's number means, on the scale of its target."""
    return said if kind == _WORTH else (-logsigmoid(said)).clamp_min(1e-12).log()


def main(
    output: Annotated[Path, typer.Argument(help="A folder for the two files.")],
    steps: Annotated[int, typer.Option(help="Of training, with one trace each.")] = 1500,
    units: Annotated[int, typer.Option(help="Of the inner map.")] = 32,
    seed: Annotated[int, typer.Option(help="Of the weights and the traces.")] = 0,
) -> None:
    """Train both gates side by side, and write `kvzap.safetensors` and `trimkv.safetensors`."""
    torch.manual_seed(seed)
    model, _ = tiny.load(device="cpu")
    model.set_attn_implementation("eager")
    config = model.config
    sizes = (config.num_hidden_layers, config.hidden_size, units, config.num_key_value_heads)
    gates = {kind: Trained(*sizes) for kind in (_WORTH, _FADING)}
    weights = [weight for gate in gates.values() for weight in gate.parameters()]
    optimizer = torch.optim.Adam(weights, lr=3e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 3e-3, total_steps=steps)
    for ids in traces(steps, seed=str(seed)):
        hidden, targets, places = seen(model, ids)
        loss = sum(
            (predicted(kind, gate(hidden[:, places])) - targets[kind][:, places]).square().mean()
            for kind, gate in gates.items()
        )
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    output.mkdir(parents=True, exist_ok=True)
    print("| gate | variance of the target explained, by layer |\n|---|---|")
    held = [seen(model, ids) for ids in traces(50, seed=f"{seed}/held out")]
    for kind, trained in gates.items():
        told = torch.cat([targets[kind][:, places] for _, targets, places in held], dim=1)
        with torch.no_grad():
            said = torch.cat(
                [predicted(kind, trained(h[:, places])) for h, _, places in held], dim=1
            )
        left = (said - told).square().mean(dim=(1, 2)) / told.var(dim=(1, 2))
        print(f"| {kind} | {', '.join(f'{1 - share:.0%}' for share in left.tolist())} |")
        made = f"benchmarks/write_gates.py, {steps} traces of seed {seed}"
        parts = {name: weight.detach() for name, weight in trained.named_parameters()}
        says = "worth" if kind == _WORTH else "retention"
        gate = WriteGate(**parts, says=says, model="tiny", made=made, imprint=imprint_of(model))
        gate.save(output / f"{kind}.safetensors")


if __name__ == "__main__":
    typer.run(main)
