"""Layers point down: a module imports only what stands on a lower line of this list.

The list is the architecture. Modules of one line may not import each other, but for modules of one
folder.
"""

import ast
import pathlib

import reldepth_jax

LAYERS = [
    {"errors", "conventions", "registry", "runtime", "faults"},
    {"config", "ops", "workdir"},
    {"cli", "pairs", "metrics", "models", "data"},
    {"visualise", "presets", "curves"},
    {"losses", "checkpoint", "predict", "weights"},
    {"train", "evaluate", "protocols", "doctor"},
    {"runs"},
    {"api", "initial", "training_step"},
    {"experiment", "compare", "inspect_run"},
    {"ablation"},
]
"""Lowest first; names of modules and folders of the package."""

ROOT = pathlib.Path(reldepth_jax.__file__).parent


def imports(path: pathlib.Path) -> set[str]:
    """Return the modules and folders of this package that a file imports, at any depth."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module == "reldepth_jax":
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("reldepth_jax."):
            found.add((node.module or "").split(".")[1])
        elif isinstance(node, ast.Import):
            found |= {
                alias.name.split(".")[1]
                for alias in node.names
                if alias.name.startswith("reldepth_jax.")
            }
    return found


def test_every_module_has_a_layer():
    names = {p.stem for p in ROOT.glob("*.py")} | {
        p.parent.name for p in ROOT.glob("*/__init__.py")
    }
    assert names - {"__init__"} == set().union(*LAYERS)


def test_imports_point_down():
    level = {name: index for index, names in enumerate(LAYERS) for name in names}
    wrong = []
    for path in ROOT.rglob("*.py"):
        own = path.relative_to(ROOT).parts[0].removesuffix(".py")
        if own == "__init__":
            continue
        for name in imports(path) - {own, "__version__"}:
            if level[name] >= level[own]:
                wrong.append(f"{path.relative_to(ROOT)} imports {name}")
    assert not wrong


def test_the_check_sees_an_upward_import(tmp_path: pathlib.Path):
    planted = tmp_path / "planted.py"
    planted.write_text("def f():\n    from reldepth_jax.experiment import train\n")
    assert imports(planted) == {"experiment"}


def test_nothing_is_called_utils():
    assert not [path for path in ROOT.rglob("*.py") if "util" in path.stem or "helper" in path.stem]
