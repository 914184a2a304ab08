"""The command `reldepth`: list of commands, mistakes, completion, and what starts without JAX."""

import os
import shutil
import subprocess
import sys

import pytest

import reldepth_jax
from reldepth_jax.cli import command
from reldepth_jax.cli import main as reldepth

SECONDS = 1.0
"""CPU time of `--help`, on a machine that other jobs use too; 0.15 measured."""


def run(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[object, str, str]:
    with pytest.raises(SystemExit) as stop:
        reldepth.main([*words])
    out, err = capsys.readouterr()
    return stop.value.code, out, err


@pytest.fixture(autouse=True)
def _stay(monkeypatch: pytest.MonkeyPatch):
    # It would end this process.
    monkeypatch.setattr(command, "_leave", lambda code: None)


def test_help_lists_every_command_with_a_line(capsys: pytest.CaptureFixture[str]):
    code, out, err = run(capsys, "--help")
    assert (code, err) == (0, "")
    for name in reldepth.COMMANDS:
        (line,) = (line for line in out.splitlines() if line.split()[:1] == [name])
        assert len(line.split()) > 3


def test_without_a_command_it_prints_the_list_and_fails(capsys: pytest.CaptureFixture[str]):
    code, out, err = run(capsys)
    assert (code, out) == (2, "")
    assert "train" in err


def test_version(capsys: pytest.CaptureFixture[str]):
    assert run(capsys, "--version") == (0, f"reldepth {reldepth_jax.__version__}\n", "")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["trian"], "unknown command 'trian'. Did you mean 'train'?"),
        (["xyz"], "unknown command 'xyz'. reldepth --help lists the commands."),
        (["train"], "the following arguments are required: --config; see reldepth train --help"),
        (["train", "--config"], "argument --config: expected one argument"),
        (["predict", "a.jpg", "--weights", "x", "--polarity", "up"], "invalid choice: 'up'"),
        (["completion", "tcsh"], "invalid choice: 'tcsh'"),
    ],
)
def test_a_mistake_is_one_line(words: list[str], message: str, capsys: pytest.CaptureFixture[str]):
    code, out, err = run(capsys, *words)
    assert (code, out) == (2, "")
    (line,) = err.splitlines()
    assert line.startswith("error: ")
    assert message in line


PROGRAM = """
import sys, time
from reldepth_jax.cli.main import main
try:
    main(sys.argv[1:])
except SystemExit as stop:
    heavy = {"jax", "numpy", "torch", "rich", "shtab"} & set(sys.modules)
    print(sorted(heavy), time.process_time(), file=sys.stderr)
    sys.exit(stop.code)
"""


@pytest.mark.parametrize("name", ["", *reldepth.COMMANDS])
def test_help_imports_nothing_heavy(name: str):
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, *filter(None, [name]), "--help"],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert done.stdout.startswith(f"usage: reldepth {name}".strip())
    imported, _, seconds = done.stderr.rpartition(" ")
    assert imported == "[]"
    assert float(seconds) < SECONDS


def test_the_same_as_a_module():
    words = [sys.executable, "-m", "reldepth_jax", "--version"]
    done = subprocess.run(words, capture_output=True, text=True, check=True)
    assert done.stdout == f"reldepth {reldepth_jax.__version__}\n"


def complete(script: str, *words: str) -> list[str]:
    """Return what bash offers for the last word."""
    quoted = " ".join(f"'{word}'" for word in ("reldepth", *words))
    ask = f"COMP_WORDS=({quoted}); COMP_CWORD={len(words)}; _shtab_reldepth"
    ask += '; printf "%s\\n" "${COMPREPLY[@]}"'
    done = subprocess.run(
        ["bash", "-c", f"{script}\n{ask}"], capture_output=True, text=True, check=True
    )
    return done.stdout.split()


def test_bash_completes_commands_options_and_configurations(capsys: pytest.CaptureFixture[str]):
    code, script, _ = run(capsys, "completion", "bash")
    assert code == 0
    assert complete(script, "pre") == ["predict", "prepare"]
    assert complete(script, "predict", "--po") == ["--polarity"]
    assert complete(script, "predict", "x.jpg", "--polarity", "") == ["depth", "disparity"]
    assert "ranking_resnet50" in complete(script, "train", "--config", "rank")
    assert "configs/smoke.py" in complete(script, "train", "--config", "configs/sm")


@pytest.mark.parametrize("shell", ["zsh", "fish"])
def test_other_shells_accept_their_script(shell: str, capsys: pytest.CaptureFixture[str]):
    code, script, _ = run(capsys, "completion", shell)
    assert code == 0
    assert "ranking_resnet50" in script
    assert "--polarity" in script or "-l polarity" in script
    if shutil.which(shell):  # where it is not installed, only the text is checked
        subprocess.run([shell, "-n"], input=script, text=True, check=True, env=os.environ)
