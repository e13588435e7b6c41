"""`--config FILE.yaml`: options from a file, by the names that the command line gives them."""

import importlib
from pathlib import Path
from typing import Any

import typer

from skipkv.cli.exits import clean_exit
from skipkv.errors import InputError


def read_config(context: Any, path: Path | None) -> Path | None:
    """A callback of an eager option: what the file says becomes the command's defaults.

    Args:
        context: typer's, of the command.
        path: of the file.
    """
    if path is not None:
        with clean_exit(debug=False):
            context.default_map = {**(context.default_map or {}), **_options(context, path)}
    return path


def _options(context: Any, path: Path) -> dict[str, Any]:
    yaml: Any = importlib.import_module("yaml")  # transformers needs it too
    try:
        text = path.read_bytes()
        given = yaml.safe_load(text)
        lines: Any = getattr(yaml.compose(text, yaml.SafeLoader), "value", None)
    except OSError as error:
        raise InputError(f"--config {path}: {error.strerror}.") from error
    except yaml.YAMLError as error:
        raise InputError(f"--config {path} is not YAML: {' '.join(str(error).split())}") from error
    if not isinstance(given, dict):
        raise InputError(f"--config {path} must hold options by name, as in `model: tiny`.")
    known = {
        option.lstrip("-"): parameter
        for parameter in context.command.params
        for option in (*parameter.opts, *parameter.secondary_opts)
        if option.startswith("--")
    }
    found: dict[str, Any] = {}
    for name in [key.value for key, _ in lines]:  # `given` has the last line alone of two alike
        value = given.get(name)
        if name == "config" or name not in known:
            raise InputError(
                f"--config {path}: there is no option --{name}. There are: "
                f"{', '.join(sorted(known.keys() - {'config', 'help'}))}."
            )
        parameter = known[name]
        if str(parameter.name) in found:
            raise InputError(
                f"--config {path}: {name} says again what another line says. Keep one of them."
            )
        if value is None or (isinstance(value, list) and None in value):
            raise InputError(
                f"--config {path}: {name} has no value. Leave the line out for its default, or "
                "write '' for an empty text."
            )
        if isinstance(value, dict) or (isinstance(value, list) and not parameter.multiple):
            raise InputError(f"--config {path}: {name} must be one value.")
        if parameter.multiple:
            value = [str(item) for item in (value if isinstance(value, list) else [value])]
        elif f"--{name}" in parameter.secondary_opts:  # --no-texts
            if not isinstance(value, bool):
                raise InputError(f"--config {path}: {name} must be true or false, got {value!r}.")
            value = not value
        found[str(parameter.name)] = value if isinstance(value, bool | list) else str(value)
    return found


Config = typer.Option(
    "--config",
    metavar="FILE",
    is_eager=True,
    callback=read_config,
    help="Options from a YAML file, by their names here (`max-new-tokens: 640`, `policies: [rkv, "
    "h2o]`); those of the command line replace them.",
)
