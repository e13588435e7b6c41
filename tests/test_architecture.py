"""The design holds in the code: which way imports point, what a folder's `__init__` does."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FILES = sorted((ROOT / "skipkv").rglob("*.py"))
PARTS = {"segmenters", "scorers", "evictors", "steerers", "schedulers"}

# `errors, _shares <- _validators <- _types, _learned <- _protocols, _calls, parts, budget <-
# policy <- presets <- models <- runtime <- the rest`: the runtime asks `models` which architectures
# it decodes, and `Engine.from_pretrained` for a model; nothing in `models` knows how a model is
# decoded.
RANK = {
    "errors": 0,
    "_shares": 0,
    "_validators": 1,
    "_types": 2,
    "_learned": 2,
    "_protocols": 3,
    "_calls": 3,
    **dict.fromkeys(PARTS, 3),
    "budget": 3,
    "policy": 4,
    "presets": 5,
    "models": 6,
    "runtime": 7,
}
REST = 8
# The folders of the runtime, from what knows least on: each imports what lies below it. Its own
# files use them all.
INSIDE = {"store": 0, "text": 0, "results": 1, "seam": 1, "support": 2, "parts": 2, "requests": 3}
# `testing` builds its toy model from stock transformers classes; `benchmark` has a bare loop over
# a model, the floor, with a cache of its own, and a worker that runs under kvpress' transformers.
KNOW_TRANSFORMERS = {"models", "runtime", "tiny", "integrations", "testing", "benchmark"}


def _name(path: Path) -> str:
    return str(path.relative_to(ROOT))


def _layer(path: Path) -> str:
    """The module or folder right under skipkv/ that a file belongs to."""
    return path.relative_to(ROOT / "skipkv").parts[0].removesuffix(".py")


def _imports(path: Path) -> Iterator[str]:
    """Dotted names of all that a file imports, inside functions and for types too."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{_name(path)}: relative import"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def _own_imports(path: Path) -> Iterator[tuple[str, str]]:
    """(layer, dotted name) of what a file imports from skipkv."""
    for imported in _imports(path):
        root, *inner = imported.split(".")
        if root == "skipkv":
            yield (inner[0] if inner else ""), imported


@pytest.mark.parametrize("path", [p for p in FILES if p.parent != ROOT / "skipkv"], ids=_name)
def test_a_file_in_a_folder_imports_only_what_lies_below_it(path):
    rank = RANK.get(_layer(path), REST)
    for layer, imported in _own_imports(path):
        if layer == _layer(path) or rank == REST:
            continue
        assert layer in RANK, f"{imported} is not below {_layer(path)}"
        assert RANK[layer] <= rank, f"{imported} is above {_layer(path)}"
        if layer in PARTS and _layer(path) in PARTS:
            pytest.fail(f"{imported}: {_layer(path)} is to know no other kind of part")


@pytest.mark.parametrize(
    "path", [p for p in FILES if p.parent.parent == ROOT / "skipkv" / "runtime"], ids=_name
)
def test_a_folder_of_the_runtime_imports_only_what_lies_below_it(path):
    own = path.parent.name
    for layer, imported in _own_imports(path):
        if layer != "runtime":
            continue
        folder = imported.split(".")[2]
        assert folder in INSIDE, f"{imported} is above {own}"
        assert folder == own or INSIDE[folder] < INSIDE[own], f"{imported} is not below {own}"


@pytest.mark.parametrize(
    "name", ["errors", "_validators", "_protocols", "_calls", "budget", "policy", "presets"]
)
def test_a_module_of_the_core_imports_only_what_lies_below_it(name):
    for layer, imported in _own_imports(ROOT / "skipkv" / f"{name}.py"):
        assert layer in RANK, f"{imported} is not below {name}"
        assert RANK[layer] < RANK[name], f"{imported} is not below {name}"


@pytest.mark.parametrize("path", FILES, ids=_name)
def test_only_the_runtime_and_its_like_know_transformers(path):
    knows = any(name.split(".")[0] in ("transformers", "tokenizers") for name in _imports(path))
    assert not knows or _layer(path) in KNOW_TRANSFORMERS


@pytest.mark.parametrize(
    "path", [p for p in FILES if p.name == "__init__.py" and p.parent != ROOT / "skipkv"], ids=_name
)
def test_the_init_of_a_folder_says_what_it_is_for_and_only_re_exports(path):
    tree = ast.parse(path.read_text())
    assert ast.get_docstring(tree), "no docstring"
    exported: list[str] = []
    imported: list[str] = []
    body = tree.body[1:]
    for node in body:
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            body += node.body  # what `__getattr__` imports when asked for
        elif isinstance(node, ast.ImportFrom):
            names = [alias.asname or alias.name for alias in node.names]
            imported += names if node.module != "typing" else []
        elif isinstance(node, ast.FunctionDef) and node.name == "__getattr__":
            continue
        elif isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__":
            exported = ast.literal_eval(node.value)
        else:
            pytest.fail(f"line {node.lineno} does more: {ast.unparse(node)[:60]}")
    assert sorted(exported) == sorted(imported)


def _module(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def test_no_file_imports_itself_by_way_of_others():
    modules = {_module(path) for path in FILES}
    imported = {
        _module(path): {
            name if name in modules else name.rpartition(".")[0] for _, name in _own_imports(path)
        }
        for path in FILES
    }
    TopologicalSorter(imported).prepare()  # raises CycleError, which has the circle


def _undocumented(body: list[ast.stmt], inside: str) -> Iterator[str]:
    for node in body:
        if not isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        decorators = [ast.unparse(d) for d in node.decorator_list]
        if node.name.startswith("_") or "overload" in decorators:
            continue
        if not ast.get_docstring(node):
            yield f"{inside}{node.name}"
        if isinstance(node, ast.ClassDef):
            yield from _undocumented(node.body, f"{inside}{node.name}.")


@pytest.mark.parametrize("path", FILES, ids=_name)
def test_everything_public_has_a_docstring(path):
    tree = ast.parse(path.read_text())
    assert ast.get_docstring(tree), "the module has no docstring"
    assert not list(_undocumented(tree.body, ""))


def _modules_after(statement: str) -> set[str]:
    """Modules loaded by a statement in a fresh interpreter."""
    listing = subprocess.run(
        [sys.executable, "-c", f"{statement}\nimport sys\nprint(*sys.modules)"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    return set(listing.stdout.split())


@pytest.mark.parametrize(
    "statement",
    [
        "import skipkv.cli",
        "import skipkv.testing",
        "from skipkv import Policy, presets; presets.rkv(budget=64)",
    ],
)
def test_what_needs_no_model_does_not_load_transformers(statement):
    assert "transformers" not in _modules_after(statement)


def test_the_command_line_loads_the_runtime_inside_its_commands_only():
    assert "skipkv.runtime" not in _modules_after("import skipkv.__main__")


def test_every_name_of_the_public_surface_resolves_and_shows_in_dir():
    import skipkv

    assert sorted(skipkv.__all__) == sorted(set(skipkv.__all__))
    for name in skipkv.__all__:
        assert getattr(skipkv, name) is not None
        assert name in dir(skipkv)
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        _ = skipkv.nonsense
