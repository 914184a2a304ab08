"""One module knows what lies where in a run directory."""

import ast
import pathlib
import re

import pytest

from reldepth_jax.run_dir import layout

NAMES = [
    layout.CONFIG, layout.CHECKPOINTS, layout.METRICS, layout.HISTORY, layout.UNREADABLE,
    layout.TENSORBOARD, layout.LOCK, layout.TEMPERATURE, layout.picture(pathlib.Path(), 1).parts[0],
    "_reliability.png", layout.table(pathlib.Path(), "train").name,
    layout.wandb_run_id(pathlib.Path()).name,
]  # fmt: skip
PATH = re.compile(
    rf"(?!/resolve/main/)(.*[/}}])?({'|'.join(map(re.escape, NAMES))})(/.*)?", re.DOTALL
)


def literals(code: str) -> list[str]:
    """Return the strings of a module that name something in a run directory.

    Docstrings aside, and addresses of files on a hub.
    """
    tree = ast.parse(code)
    texts = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    return [
        node.value
        for node in ast.walk(tree)
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
        if id(node) not in texts and PATH.fullmatch(node.value)
    ]


def test_no_other_module_names_what_lies_in_a_run_directory():
    files = [path for folder in ("reldepth_jax", "scripts")
             for path in pathlib.Path(folder).rglob("*.py")]  # fmt: skip
    found = {str(path): literals(path.read_text(encoding="utf-8")) for path in files}
    assert found.pop("reldepth_jax/run_dir/layout.py")
    # `train.writers` calls a writer by the name of its folder.
    for path in ("config/schema.py", "training/metrics_writer.py"):
        assert {*found.pop(f"reldepth_jax/{path}")} == {layout.TENSORBOARD}
    # That of a folder for a hub, whose name is the hub's.
    assert found.pop("reldepth_jax/weights/hub.py") == ["config.json"]
    assert {path: names for path, names in found.items() if names} == {}


def test_the_check_sees_a_name():
    planted = '"""config.json"""; x / "config.json", f"{x}/checkpoints/y", "configs"'
    assert literals(planted) == ["config.json", "/checkpoints/y"]


@pytest.mark.parametrize(
    ("config", "folder"),
    [
        ("configs/ranking.py", "runs/ranking"),
        ("configs/redweb.py:diw", "runs/redweb_diw"),
        ("/a/b/x.y.py:one", "runs/x.y_one"),
        ("ranking", "runs/ranking"),
        ("redweb:diw", "runs/redweb_diw"),
    ],
)
def test_default_run_directory(config: str, folder: str):
    assert layout.default_run_dir(config) == pathlib.Path(folder)


def test_an_evaluation_lies_in_its_run_or_beside_its_weights_file(tmp_path: pathlib.Path):
    assert layout.evaluation_folder(tmp_path) == tmp_path / "eval"
    weights = tmp_path / "midas.safetensors"
    assert layout.evaluation_folder(weights) == tmp_path / "midas_eval"
