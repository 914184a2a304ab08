"""What the machine refuses is one line: devices, memory."""

import pytest

from reldepth_jax.cli import command


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
