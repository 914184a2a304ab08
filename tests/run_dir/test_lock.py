"""One job for each run directory."""

import errno
import os
import pathlib

import pytest

from reldepth_jax.run_dir.lock import BusyError, RunDirError, own


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
