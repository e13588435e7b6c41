"""The reference of the command line, written from the commands themselves."""

from typing import Any

import typer
from mkdocs.structure.pages import Page

MARK = "<!-- commands -->"


def on_page_markdown(markdown: str, page: Page, **kwargs: Any) -> str:
    """Put every command, its help and its options, in the place of the mark."""
    if MARK not in markdown:
        return markdown
    from skipkv.cli.app import app

    group = typer.main.get_command(app)
    sections = [_section(name, command) for name, command in group.commands.items()]
    return markdown.replace(MARK, "\n".join(sections))


def _section(name: str, command: Any) -> str:
    rows = "\n".join(_row(parameter) for parameter in command.params)
    head = "| option | default | |\n|---|---|---|"
    return f"## skipkv {name}\n\n{command.help}\n\n{head}\n{rows}\n"


def _row(parameter: Any) -> str:
    is_argument = parameter.param_type_name == "argument"
    names = [parameter.name.upper()] if is_argument else _names(parameter)
    shown = ", ".join(f"`{name}`" for name in names)
    if parameter.required:
        default = "required"
    else:
        # `is`, since 0 equals False and is a default worth showing
        unset = parameter.default is None or parameter.default is False
        default = "" if unset else f"`{parameter.default}`"
    text = (parameter.help or "").replace("|", "\\|")
    return f"| {shown} | {default} | {text} |"


def _names(parameter: Any) -> list[str]:
    return [*parameter.opts, *parameter.secondary_opts]
