"""`skipkv policies`: what each preset is made of."""

import inspect
import json
from typing import TYPE_CHECKING, Annotated, Any

import typer

from skipkv.cli.exits import clean_exit

if TYPE_CHECKING:
    from skipkv.policy import Policy

EXAMPLE_BUDGET = 1024
"""Tokens; presets that take a budget are shown under this one."""


def policies(
    as_json: Annotated[
        bool, typer.Option("--json", help="Print a line of JSON per preset.")
    ] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show tracebacks.")] = False,
) -> None:
    """Show each preset's composition, under a budget of 1024 tokens where it takes one."""
    with clean_exit(debug=debug):
        from skipkv.compositions import takes
        from skipkv.presets import NAMES, get

        for number, name in enumerate(NAMES):
            function = get(name)
            policy = function(budget=EXAMPLE_BUDGET) if takes(function, "budget") else function()
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
