"""README says what is there: files exist, overrides apply, CI runs the printed test command."""

import pathlib
import re
import subprocess

import pytest

from reldepth_jax.config import load, override, validate
from reldepth_jax.data.pipeline import make_source, train_sources
from reldepth_jax.data.prepared import writing
from tests.fixtures import diw, redweb

README = pathlib.Path("README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```bash\n(.*?)```", README, re.DOTALL)


def test_every_named_file_exists():
    named = set(re.findall(r"\b(?:configs|scripts|tests|docs)/[\w/.-]*\w", README))
    assert {"configs/ranking.py", "scripts/train.py", "docs/compare.png"} <= named
    assert not [name for name in named if not pathlib.Path(name).exists()]


def test_every_configuration_is_listed():
    listed = set(re.findall(r"^\| `(configs/\w+\.py)`", README, re.MULTILINE))
    assert listed == {str(path) for path in pathlib.Path("configs").glob("*.py")}


def test_overrides_in_the_text_apply():
    """Those of a line together, to the configuration that it names."""
    applied = 0
    for line in README.splitlines():
        assignments = dict(re.findall(r"--config\.([\w.]+)=([\w.-]+)", line))
        named = re.search(r"--config (configs/\w+\.py[:\w]*)", line)
        if assignments:
            validate(override(load(named[1] if named else "configs/ranking.py"), assignments))
            applied += len(assignments)
    assert applied >= 6


def test_training_commands_find_their_data_in_the_published_layouts(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
):
    """Every training command of "Data sets" up to the first sample, with small data sets."""
    redweb.write(tmp_path / "data", 20)
    diw.write(tmp_path / "data/DIW")
    writing.prepare(
        "redweb", str(tmp_path / "data/ReDWeb_V1"), str(tmp_path / "shards"), partial=True,
        say=lambda line: None,
    )  # fmt: skip
    section = README.split("## Data sets")[1].split("\n## ")[0]
    commands = re.findall(r"^python scripts/train.py --config (\S+)(.*)$", section, re.MULTILINE)
    assert len(commands) >= 6
    root = pathlib.Path.cwd()
    workdirs = set()
    for file, rest in commands:
        assignments = dict(re.findall(r"--config\.([\w.]+)=(\S+)", rest))
        if "data.subset" in assignments:
            assignments["data.subset"] = "9"
        if "data.source.prepared" in assignments:
            assignments["data.source.root"] = ""
        monkeypatch.chdir(root)
        settings = override(load(file), assignments)
        validate(settings)
        monkeypatch.chdir(tmp_path)
        for source in (*train_sources(settings), make_source(settings, "val")):
            assert source[0]["image"].shape[2] == 3
        workdirs.add((file, rest.split("--workdir")[-1] if "--workdir" in rest else ""))
    assert len(workdirs) >= 5


def test_ci_runs_both_commands_of_this_file():
    patterns = re.findall(
        r"grep -m 1 -o '(.*)' README.md", pathlib.Path(".ci/run").read_text(encoding="utf-8")
    )
    assert len(patterns) == 2
    for pattern, block in zip(patterns, BLOCKS, strict=False):
        found = re.search(pattern, README)
        assert found
        assert found[0] == block.strip()


@pytest.mark.parametrize("number", [0, 1])
def test_the_two_commands_are_one_line_each_and_parse(number: int):
    lines = BLOCKS[number].strip().splitlines()
    assert len(lines) == 1
    assert lines[0].startswith("python3 -m venv .venv && .venv/bin/pip install -e ")
    assert subprocess.run(["bash", "-n", "-c", lines[0]], check=False).returncode == 0


def test_no_placeholder_is_left():
    assert not re.findall(r"\b[A-Z]{4,}_[A-Z]+\b", README)
