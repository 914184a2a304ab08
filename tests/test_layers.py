"""Layers point down: a module imports only what stands on a lower line of this list.

The list is the architecture. A room is a module or a folder of the package; the longest name that
fits a module is its room. Inside a room modules may import each other, but not in a circle.
"""

import ast
import graphlib
import pathlib

import pytest

import reldepth_jax

LAYERS = [
    {"errors", "plugins", "processor", "data.workers"},
    {"types", "registry", "failpoints", "runtime", "checked_json", "public_files"},
    {"config", "ops", "json_lines", "kept"},
    {"models", "samplers", "metrics", "data.images"},
    {"losses", "data.cropping", "data.label_noise", "data.degradation"},
    {"data.selection", "data.transforms"},
    {"data.reading", "data.fingerprint"},
    {"data.prepared.shards", "data.survey", "data.unreadable"},
    {"data.data_set"},
    {"data.sources"},
    {"data.pipeline", "data.checks", "data.prepared"},
    {"run_dir", "weights.presets"},
    {"weights"},
    {"training"},
    {"weights.from_run"},
    {"weights.init_from", "inference"},
    {"evaluation", "export", "film"},
    {"training.run", "demo"},
    {"evaluation.ablation"},
    {"cli"},
]
"""Lowest first. A room may import from its own line only what is in itself."""

ROOT = pathlib.Path(reldepth_jax.__file__).parent
LEVEL = {name: index for index, names in enumerate(LAYERS) for name in names}


def name_of(path: pathlib.Path) -> str:
    """Return the dotted name of a module below the package, empty for the package itself."""
    return (
        ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix("__init__").strip(".")
    )


MODULES = {name_of(path): path for path in ROOT.rglob("*.py")}


def imports(path: pathlib.Path) -> set[str]:
    """Return the modules of this package that a file imports, at any depth of its code."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("reldepth_jax"):
            module = (node.module or "").removeprefix("reldepth_jax").strip(".")
            for alias in node.names:
                inner = f"{module}.{alias.name}".strip(".")
                found.add(inner if inner in MODULES else module)
        elif isinstance(node, ast.Import):
            found |= {
                alias.name.removeprefix("reldepth_jax.")
                for alias in node.names
                if alias.name.startswith("reldepth_jax.")
            }
    return found - {""}


def room_of(name: str) -> str | None:
    """Return the room of a module: the longest listed name that it is, or lies in."""
    parts = name.split(".")
    names = [".".join(parts[:end]) for end in range(len(parts), 0, -1)]
    return next((name for name in names if name in LEVEL), None)


def upward(name: str, imported: set[str]) -> list[str]:
    """Return what a module imports that does not lie below it, or in its own room."""
    own = room_of(name)
    assert own is not None
    rooms = {other: room_of(other) for other in imported}
    return [
        f"{name} imports {other}"
        for other, room in sorted(rooms.items())
        if room is not None and room != own and LEVEL[room] >= LEVEL[own]
    ]


def test_every_module_has_a_room():
    folders = {"data", "__main__"}
    assert [n for n in MODULES if n and room_of(n) is None and n not in folders] == []
    known = {part for name in MODULES for part in (name, name.rpartition(".")[0])}
    assert set(LEVEL) <= known


def test_imports_point_down():
    wrong = [
        line
        for name, path in MODULES.items()
        if room_of(name) is not None
        for line in upward(name, imports(path))
    ]
    assert not wrong


def test_no_modules_import_each_other_in_a_circle():
    # A package's own module imports what it offers, and is imported with whatever lies in it.
    graph = {name: imports(path) for name, path in MODULES.items() if name}
    try:
        graphlib.TopologicalSorter(graph).prepare()
    except graphlib.CycleError as error:
        pytest.fail(" -> ".join(error.args[1]))


def test_the_check_sees_an_upward_import(tmp_path: pathlib.Path):
    planted = tmp_path / "planted.py"
    planted.write_text("def f():\n    from reldepth_jax.training.run import train\n")
    assert imports(planted) == {"training.run"}
    assert upward("data.pipeline", imports(planted)) == ["data.pipeline imports training.run"]


def test_nothing_is_called_utils():
    assert not [path for path in ROOT.rglob("*.py") if "util" in path.stem or "helper" in path.stem]
