"""README says what is there: files exist, overrides apply, CI runs the printed test command."""

import pathlib
import re
import subprocess

import pytest

from reldepth_jax.config import load, override, validate

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
    assignments = dict(re.findall(r"--config\.([\w.]+)=([\w.-]+)", README))
    of_redweb = {path: assignments.pop(path) for path in [*assignments] if "data.source" in path}
    assert len(assignments) >= 3
    validate(override(load("configs/ranking.py"), assignments))
    validate(override(load("configs/redweb.py"), of_redweb))


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
