"""`skipkv policies`: what each preset is made of."""

import inspect
import json
from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated, Any

import typer

from skipkv.cli.exits import clean_exit

if TYPE_CHECKING:
    from skipkv.policy import Policy

EXAMPLE_BUDGET = 1024
"""Tokens; presets that need a budget are shown under this one."""
EXAMPLE_WIDTH = 3584
"""Numbers in the vector of presets that steer: the hidden size of a model of seven billion."""


def policies(
    as_json: Annotated[
        bool, typer.Option("--json", help="Print a line of JSON per preset.")
    ] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show tracebacks.")] = False,
) -> None:
    """Show each preset's composition, under a budget of 1024 tokens where it takes one."""
    with clean_exit(debug=debug):
        from skipkv.presets import NAMES, get

        for number, name in enumerate(NAMES):
            function = get(name)
            policy = _example(function)
            summary = (inspect.getdoc(function) or "").partition("\n")[0]
            parts = composition(policy)
            if as_json:
                typer.echo(json.dumps({"name": name, "summary": summary, **parts}))
                continue
            if number:
                typer.echo()
            typer.echo(f"{name}: {summary}")
            for field, written in _at_work(policy, parts).items():
                typer.echo(f"  {field:<10}{written}")


def _example(preset: "Callable[..., Policy]") -> "Policy":
    """The preset's policy, with stand-ins for what it must be given."""
    import torch

    from skipkv.steerers import SteeringVector

    stand_ins = {
        "budget": EXAMPLE_BUDGET,
        "vector": SteeringVector(vector=torch.ones(EXAMPLE_WIDTH), layer=20, model="your model"),
    }
    required = [
        name for name, p in inspect.signature(preset).parameters.items() if p.default is p.empty
    ]
    return preset(**{name: stand_ins[name] for name in required})


def composition(policy: "Policy") -> dict[str, str]:
    """The policy's fields as one would write them in Python."""
    import attrs

    parts: dict[str, Any] = {
        field.name: getattr(policy, field.name) for field in attrs.fields(type(policy))
    }
    return {name: repr(part) for name, part in parts.items()}


def _at_work(policy: "Policy", parts: dict[str, str]) -> dict[str, str]:
    """The parts that take part: a policy without a budget scores nothing, and so on."""
    resting = set()
    if policy.budget is None:
        resting |= {"scorer"}
    if not policy.needs.sentences:
        resting |= {"segmenter"}
    if policy.steerer.layer is None:
        resting |= {"steerer"}
    return {name: written for name, written in parts.items() if name not in resting}
