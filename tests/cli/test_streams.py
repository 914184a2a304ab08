"""Output that goes away: work that is done counts as done, and nothing raises."""

import errno
import io
import os
import pathlib
import sys

import pytest

from reldepth_jax.cli import command, streams
from reldepth_jax.cli import main as reldepth
from reldepth_jax.training import run as training_run
from tests.fixtures.training import CONFIG, newest


class Gone(io.StringIO):
    """Takes a few writes, then answers with an error."""

    def __init__(self, number: int, writes: int = 0):
        super().__init__()
        self._number, self._left = number, writes

    def write(self, text: str) -> int:
        self._left -= 1
        if self._left < 0:
            raise OSError(self._number, os.strerror(self._number))
        return super().write(text)


@pytest.mark.parametrize("number", [errno.EPIPE, errno.EIO])
def test_a_reader_that_has_left_is_no_error(
    number: int, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    stream = streams.Tolerant("stdout", Gone(number, writes=2))
    monkeypatch.setattr(sys, "stdout", stream)
    print("one")
    print("two")
    assert stream.getvalue() == "one\n"
    assert not streams.lost()
    assert capsys.readouterr().err == ""


def test_a_full_device_is_told_once(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(sys, "stdout", streams.Tolerant("stdout", Gone(errno.ENOSPC)))
    print("one")
    print("two")
    assert streams.lost()
    line = "error: stdout cannot be written: No space left on device\n"
    assert capsys.readouterr().err == line


def test_a_character_that_the_encoding_lacks_is_escaped(monkeypatch: pytest.MonkeyPatch):
    raw = io.BytesIO()
    stream = io.TextIOWrapper(raw, encoding="cp1252", write_through=True)
    monkeypatch.setattr(sys, "stdout", streams.Tolerant("stdout", stream))
    print("é 深度")
    assert raw.getvalue() == b"\xe9 \\u6df1\\u5ea6\n"


def test_what_only_prints_has_failed_where_that_is_lost(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.setattr(sys, "stdout", streams.Tolerant("stdout", Gone(errno.ENOSPC)))
    with pytest.raises(SystemExit) as stop:
        reldepth.main(["completion", "bash"])
    assert stop.value.code == command.STORAGE_ERROR


def test_training_goes_on_when_nobody_reads(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(command, "_leave", lambda code: None)
    monkeypatch.setattr(training_run.runtime, "keep_compiled", lambda: None)
    monkeypatch.setattr(sys, "stdout", streams.Tolerant("stdout", Gone(errno.EPIPE, writes=1)))
    with pytest.raises(SystemExit) as stop:
        reldepth.main(["train", "--config", CONFIG, "--workdir", str(tmp_path / "run")])
    assert stop.value.code == 0
    assert newest(tmp_path / "run") == 8
