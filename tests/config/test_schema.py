"""The shipped configurations, and the schema as the rest of the package uses it."""

import ast
import dataclasses
import pathlib
import subprocess
import sys

import pytest

from reldepth_jax.config import Config, load

# Without the grids of `scripts/ablate.py`.
CONFIGS = sorted(
    {*pathlib.Path("configs").glob("*.py")} - {*pathlib.Path("configs").glob("ablation*.py")}
)


@pytest.mark.parametrize("path", CONFIGS, ids=lambda p: p.stem)
def test_every_config_loads_and_says_what_it_does(path: pathlib.Path):
    load(str(path))
    text = path.read_text()
    for heading in ("Cost:", "Score:", f"reldepth train --config {path.stem}"):
        assert heading in text.split('"""')[1], f"{path}: docstring lacks {heading!r}"


GROUPS = {
    "DataConfig": "data",
    "Degradation": "degradation",
    "LabelNoise": "label_noise",
    "ModelConfig": "model",
    "OptimConfig": "optim",
    "TrainConfig": "train",
    "EvalConfig": "eval",
}


def attributes(source: str) -> set[str]:
    """Return `b` and `a.b` for every attribute `….a.b` that is read in a module.

    Where an argument is annotated, as in `config: TrainConfig`, `config.keep` is `train.keep`.
    """
    tree = ast.parse(source)
    arguments = {
        node.arg: GROUPS.get(node.annotation.id, node.arg)
        for node in ast.walk(tree)
        if isinstance(node, ast.arg) and isinstance(node.annotation, ast.Name)
    }
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Load):
            found.add(node.attr)
            match node.value:
                case ast.Attribute(attr=owner) | ast.Name(id=owner):
                    found |= {f"{owner}.{node.attr}", f"{arguments.get(owner, owner)}.{node.attr}"}
    return found


def test_every_field_is_read_outside_the_configuration():
    """A field that no module reads would be a promise not kept."""
    read = {
        name
        for path in pathlib.Path("reldepth_jax").rglob("*.py")
        if path.parent.name != "config"
        for name in attributes(path.read_text())
    }
    groups = {"": Config(), **{name: getattr(Config(), name) for name in vars(Config())}}
    groups["label_noise"] = Config().data.label_noise
    fields = {
        f"{name}.{field.name}".strip(".")
        for name, group in groups.items()
        if dataclasses.is_dataclass(group)
        for field in dataclasses.fields(group)
    }
    assert len(fields) > 70
    assert fields - read == set()


def test_the_search_for_reads_tells_fields_apart():
    read = attributes("def f(config: TrainConfig):\n    return config.keeper, config.train.steps")
    assert "train.steps" in read
    assert "train.keeper" in read
    assert "train.keep" not in read
    assert "data.keeper" not in read
    assert "train.keep" not in attributes("def f(config):\n    config.train.keep = 3")


def test_configuration_needs_no_jax():
    code = (
        "import sys; from reldepth_jax import config; from reldepth_jax.cli import command;"
        "config.validate(config.load('configs/ranking.py'));"
        "sys.exit('jax' in sys.modules or 'numpy' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
