"""README and docs say what is there: files, commands, options; CI runs the printed commands."""

import pathlib
import re
import subprocess

import pytest

from reldepth_jax.cli.main import main
from reldepth_jax.config import load, override, validate
from reldepth_jax.data.pipeline import make_source, train_sources
from reldepth_jax.data.prepared import writing
from tests.fixtures import diw, hr_wsi, nyu_depth_v2, nyu_pairs, redweb

README = pathlib.Path("README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```bash\n(.*?)```", README, re.DOTALL)
PAGES = {"README.md": README} | {
    str(path): path.read_text(encoding="utf-8")
    for path in sorted(pathlib.Path("docs").rglob("*.md"))
}
OF_THE_SITE = {"docs/index.md", "docs/api.md", "docs/quick_start.md", "docs/networks.md"}
WORDS = 1200
"""README has at most so many, counted as `wc -w` counts."""


DATA_SETS = ("redweb", "diw", "hr_wsi", "nyu_pairs", "nyu_depth_v2")


def joined(text: str) -> list[str]:
    """Return the lines of a page, with continued command lines in one piece."""
    return text.replace("\\\n", " ").splitlines()


def test_readme_is_short():
    assert len(README.split()) <= WORDS


@pytest.mark.parametrize("page", PAGES)
def test_every_named_file_exists(page: str):
    # What stands behind "runs/" or in a user's own folder is not part of the repository.
    pattern = r"(?<![\w/])(?:configs|scripts|tests|docs|benchmarks|reldepth_jax)/[\w/.-]*\w"
    named = set(re.findall(pattern, PAGES[page]))
    linked = {
        str((pathlib.Path(page).parent / target).resolve().relative_to(pathlib.Path.cwd()))
        for target in re.findall(r"\]\((?!http)([\w/.-]+)", PAGES[page])
    }
    assert not [name for name in named | linked if not pathlib.Path(name).exists()]


def test_readme_links_every_page():
    # Those below, and the first page of the site, are reached from these.
    pages = {f"docs/{path.name}" for path in pathlib.Path("docs").glob("*.md")}
    assert not [page for page in pages - OF_THE_SITE if page not in README]


def test_every_configuration_is_listed():
    listed = set(re.findall(r"^\| `(configs/\w+\.py)`", PAGES["docs/training.md"], re.MULTILINE))
    assert listed == {str(path) for path in pathlib.Path("configs").glob("*.py")}


def test_overrides_in_the_text_apply():
    """Those of a line together, to the configuration that it names."""
    applied = 0
    # bad_input.md shows overrides with placeholders.
    pages = [text for page, text in PAGES.items() if page != "docs/bad_input.md"]
    for line in (line for text in pages for line in joined(text)):
        assignments = dict(re.findall(r"--config\.([\w.]+)=([\w./-]+)", line))
        named = re.search(r"--config ([\w./]+(?::\w+)?)", line)
        if checked := re.search(r"check-data (\w+)", line):
            assignments = {"data.source.name": checked[1], **assignments}
        if assignments:
            validate(override(load(named[1] if named else "ranking"), assignments))
            applied += len(assignments)
    assert applied >= 12


@pytest.mark.parametrize("page", PAGES)
def test_commands_of_the_text_are_known(page: str, capsys: pytest.CaptureFixture[str]):
    """Every `reldepth X --option` exists, as X's own help says."""
    helps: dict[str, str] = {}
    for command, rest in re.findall(
        r"\breldepth ([a-z][\w-]*)(.*)", "\n".join(joined(PAGES[page]))
    ):
        if command not in helps:
            with pytest.raises(SystemExit) as ended:
                main([command, "--help"])
            assert ended.value.code == 0, command
            helps[command] = capsys.readouterr().out
        for option in re.findall(r"(?<![\w`.-])--[a-z][a-z-]*(?![\w.-])", rest.partition("#")[0]):
            assert option in helps[command], f"{command} {option}"


def test_training_commands_find_their_data_in_the_published_layouts(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
):
    """Every training command of these pages up to the first sample, with small data sets."""
    redweb.write(tmp_path / "data", 20)
    diw.write(tmp_path / "data/DIW")
    hr_wsi.write(tmp_path / "data/HR-WSI")
    nyu_pairs.write(tmp_path / "data/NYU")
    nyu_depth_v2.write(tmp_path / "data/NYU")
    writing.prepare(
        "redweb", str(tmp_path / "data/ReDWeb_V1"), str(tmp_path / "shards"), partial=True,
        say=lambda line: None,
    )  # fmt: skip
    names = ("data", *(f"data/{name}" for name in DATA_SETS))
    text = "\n".join(line for name in names for line in joined(PAGES[f"docs/{name}.md"]))
    commands = re.findall(r"^reldepth train --config (\S+)(.*)$", text, re.MULTILINE)
    assert len(commands) >= 9
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
