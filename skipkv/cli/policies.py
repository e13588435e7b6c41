"""`skipkv policies`: the parts of each preset."""

import inspect
import json
from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated, Any

import typer

from skipkv.cli.exits import clean_exit, loading

if TYPE_CHECKING:
    from skipkv.policy import Policy

EXAMPLE_BUDGET = 1024
"""Tokens; presets that need a budget are shown under this one."""
EXAMPLE_WIDTH = 3584
"""Length of the vector in presets that steer: the hidden size of a model of 7B parameters."""


def policies(
    as_json: Annotated[
        bool, typer.Option("--json", help="Print a JSON object per preset.")
    ] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
) -> None:
    """Show the parts of each preset, at a budget of 1024, and what it needs and costs."""
    with clean_exit(debug=debug):
        with loading():
            from skipkv.presets import NAMES, get

        for number, name in enumerate(NAMES):
            function = get(name)
            policy = example(function)
            summary = (inspect.getdoc(function) or "").partition("\n")[0]
            parts = composition(policy)
            if as_json:
                typer.echo(
                    json.dumps({"name": name, "summary": summary, **parts, **_needed(policy)})
                )
                continue
            if number:
                typer.echo()
            typer.echo(f"{name}: {summary}")
            for field, written in _at_work(policy, parts).items():
                typer.echo(f"  {field:<10}{written}")
            typer.echo(f"  {'needs':<10}{policy.needs}")
            for cost in costs(policy):
                typer.echo(f"  {'costs':<10}{cost}")


def example(preset: "Callable[..., Policy]") -> "Policy":
    """A preset's policy, with example values for its required arguments.

    Args:
        preset: any of `skipkv.presets`.
    """
    import torch

    from skipkv.scorers import QueryStatistics, WriteGate
    from skipkv.steerers import SteeringVector

    zeros = torch.zeros(1, 1, 1)
    queries: dict[str, Any] = {
        "mean": torch.zeros(1, 1, 1, 2),
        "length": zeros[None],
        "frequencies": zeros[0, 0],
    }
    stand_ins = {
        "queries": QueryStatistics(**queries, tokens=1, model="your model"),
        "budget": EXAMPLE_BUDGET,
        "gate": WriteGate(outer=zeros, outer_bias=zeros[0], model="your model"),
        "vector": SteeringVector(vector=torch.ones(EXAMPLE_WIDTH), layer=20, model="your model"),
    }
    required = [
        name for name, p in inspect.signature(preset).parameters.items() if p.default is p.empty
    ]
    return preset(**{name: stand_ins[name] for name in required})


def composition(policy: "Policy") -> dict[str, str]:
    """The policy's fields, each as Python source."""
    import attrs

    parts: dict[str, Any] = {
        field.name: getattr(policy, field.name) for field in attrs.fields(type(policy))
    }
    return {name: repr(part) for name, part in parts.items()}


def costs(policy: "Policy") -> list[str]:
    """What it takes to record what a policy needs, and memory beyond its budget.

    Args:
        policy: any policy.
    """
    from skipkv.evictors.protocol import most_of
    from skipkv.runtime.store.slots import COUNTED_TOGETHER

    needs, budget = policy.needs, policy.budget
    tokens = None if budget is None else budget.tokens
    room = 1.0 if tokens is None else most_of(policy.evictor, tokens) / tokens
    numbers, steps = len(needs.recorded), COUNTED_TOGETHER
    queries = "query" if needs.queries == 1 else "queries"
    told = {
        f"{needs.queries} {queries} per query head": needs.queries > 0,
        f"{4 * numbers} bytes per entry": numbers > 0,
        f"the queries of {steps} steps, whose attention is computed again": needs.weights,
        f"memory for {room:g} budgets in every head": room > 1,
        "a network is asked of every new entry": bool(needs.written),
        "a file made for the model": needs.model is not None,
        "an embedding per sentence; a tokenizer": needs.sentences,
        "keys or queries are turned back at events; a model whose rotation is known": needs.rotary,
    }
    return [cost for cost, applies in told.items() if applies] or ["nothing"]


def _needed(policy: "Policy") -> dict[str, Any]:
    return {"needs": repr(policy.needs), "costs": costs(policy)}


def _at_work(policy: "Policy", parts: dict[str, str]) -> dict[str, str]:
    """The parts in use: a policy without a budget scores nothing, and so on."""
    unused = set()
    if policy.budget is None:
        unused |= {"scorer"}
    if not policy.needs.sentences:
        unused |= {"segmenter"}
    if policy.steerer.layer is None:
        unused |= {"steerer"}
    return {name: written for name, written in parts.items() if name not in unused}
