"""One job for each run directory."""

import errno
import os
import pathlib
import socket
import sys

import pytest

from reldepth_jax.run_dir.lock import BusyError, RunDirError, holder, own


def test_the_lock_is_free_again_after_the_run(tmp_path: pathlib.Path):
    with own(tmp_path):
        with pytest.raises(BusyError, match=f"process {os.getpid()} on .*, started 20"):
            with own(tmp_path):
                pass
        # Who was refused has not wiped the holder's name.
        with pytest.raises(BusyError, match=f"process {os.getpid()} on"), own(tmp_path):
            pass
    with own(tmp_path):
        pass


def test_a_file_system_without_locks_is_one_line(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
):
    def flock(*_: object) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr("fcntl.flock", flock)
    with pytest.raises(RunDirError, match="cannot be locked: No locks available"), own(tmp_path):
        pass


def test_a_platform_without_locks_says_what_is_missing(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setitem(sys.modules, "fcntl", None)
    with (
        pytest.raises(RunDirError, match=r"no fcntl.*prediction works here"),
        own(tmp_path / "run"),
    ):
        pass
    assert not (tmp_path / "run").exists()


def test_a_name_that_is_not_utf_8_is_refused_before_anything_is_made(tmp_path: pathlib.Path):
    folder = tmp_path / os.fsdecode(b"run\xff")
    with pytest.raises(RunDirError, match=r"its name is not UTF-8"), own(folder):
        pass
    assert not folder.exists()


def test_the_name_of_an_earlier_holder_does_not_stay(tmp_path: pathlib.Path):
    path = tmp_path / "run.lock"
    path.write_text("process 1 on elsewhere, started 2020-01-01 00:00:00\nand more\n")
    with own(tmp_path):
        (line,) = path.read_text().splitlines()
        assert line.startswith(f"process {os.getpid()} on ")


def test_what_the_lock_says_is_shown_without_control_characters(tmp_path: pathlib.Path):
    with own(tmp_path):
        (tmp_path / "run.lock").write_bytes(b"process\x1b[2J\x9b\n\xff" + b"x" * 10**6)
        with pytest.raises(BusyError) as caught, own(tmp_path):
            pass
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 1000


@pytest.mark.parametrize("pid", ["9" * 30, "0" * 400])
def test_an_absurd_number_in_the_lock_is_nobody(tmp_path: pathlib.Path, pid: str):
    (tmp_path / "run.lock").write_text(f"process {pid} on {socket.gethostname()}, started 2020")
    assert holder(tmp_path) == ("", "")
