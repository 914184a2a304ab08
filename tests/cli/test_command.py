"""What the machine refuses is one line: devices, memory, threads; and odd environments."""

import pathlib
import subprocess
import sys

import jax
import pytest

import reldepth_jax
from reldepth_jax import plugins
from reldepth_jax.cli import command, train_until_done
from reldepth_jax.errors import UserError
from reldepth_jax.registry import Registry
from reldepth_jax.run_dir.numerics import numerics, numerics_changed


def told(error: Exception, capsys: pytest.CaptureFixture[str]) -> tuple[object, str]:
    def main() -> int:
        raise error

    with pytest.raises(SystemExit) as stop:
        command.run(main)
    return stop.value.code, capsys.readouterr().err


def test_no_device(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("JAX_PLATFORMS", "tpu")
    error = RuntimeError("Unable to initialize backend 'tpu': INTERNAL: no libtpu.so\nmore")
    code, text = told(error, capsys)
    (line,) = text.splitlines()
    assert code == 2
    assert line.startswith("error: JAX has no such device here: JAX_PLATFORMS=tpu: Unable to")


def test_no_device_and_no_words(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    # As JAX does for CUDA: an assertion that has no message.
    monkeypatch.setenv("JAX_PLATFORMS", "cuda")
    scope: dict[str, object] = {}
    exec(compile("def fail():\n    assert False", "/x/jax/_src/xla_bridge.py", "exec"), scope)
    with pytest.raises(SystemExit) as stop:
        command.run(scope["fail"])  # pyright: ignore[reportArgumentType]: it never returns
    (line,) = capsys.readouterr().err.splitlines()
    assert stop.value.code == 2
    assert line.startswith("error: JAX has no such device here: JAX_PLATFORMS=cuda; unset it")


@pytest.mark.parametrize("error", [MemoryError(), RuntimeError("RESOURCE_EXHAUSTED: 9 TB")])
def test_memory(error: Exception, capsys: pytest.CaptureFixture[str]):
    code, text = told(error, capsys)
    assert code == 2
    assert text.startswith("error: memory is exhausted (")
    assert text.count("\n") == 1


def test_other_errors_keep_their_traceback():
    def main() -> int:
        raise AssertionError("a fault of ours")

    with pytest.raises(AssertionError, match="of ours"):
        command.run(main)


def test_no_more_threads(capsys: pytest.CaptureFixture[str]):
    code, text = told(RuntimeError("can't start new thread"), capsys)
    assert code == 2
    assert text.startswith("error: the system gives no more threads (ulimit -u")
    assert text.count("\n") == 1


@pytest.mark.parametrize("name", ["ATTEMPTS", "PAUSE"])
@pytest.mark.parametrize("value", ["three", "-1", "1e9", "inf", "9" * 400])
def test_numbers_of_the_restart_loop(monkeypatch: pytest.MonkeyPatch, name: str, value: str):
    monkeypatch.setenv(name, value)
    with pytest.raises(UserError, match=f"{name} must be a number of at least 0, got '"):
        train_until_done.main(["--config", "smoke"])


def test_a_folder_of_plug_ins_that_does_not_exist(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(plugins, "__path__", ["/nowhere"])
    with pytest.raises(UserError, match="RELDEPTH_PLUGINS names '/nowhere', which is no folder"):
        _ = Registry("LOSSES", "loss", "reldepth_jax.losses").entries


def test_another_precision_is_told_where_a_run_goes_on():
    # JAX_ENABLE_X64 changes every number.
    facts = numerics()
    assert numerics_changed(facts) == ""
    jax.config.update("jax_enable_x64", True)
    try:
        assert numerics_changed(facts) == "floats 32 bits -> 64 bits"
    finally:
        jax.config.update("jax_enable_x64", False)


@pytest.mark.parametrize("options", [["-OO"], ["-X", "utf8=0"], ["-I", "-S"]])
def test_help_without_docstrings_and_in_other_modes(options: list[str]):
    root = str(pathlib.Path(reldepth_jax.__file__).parent.parent)
    paths = [root, *sys.path]
    program = f"import sys; sys.path[:0] = {paths!r}; from reldepth_jax.cli import start; "
    ended = subprocess.run(
        [sys.executable, *options, "-c", program + "start.main(['--help'])"],
        env={"COLUMNS": "1"}, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert (ended.returncode, ended.stderr) == (0, "")
    assert "train-until-done" in ended.stdout
