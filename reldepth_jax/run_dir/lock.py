"""The lock of a run directory: one job at a time, checked before anything is computed."""

import contextlib
import fcntl
import os
import pathlib
import socket
import time
from collections.abc import Iterator

from reldepth_jax.errors import UserError
from reldepth_jax.run_dir import layout


class BusyError(UserError):
    """Another job trains in the run directory."""

    exit_code = 4


class RunDirError(UserError):
    """A run directory that cannot be written to."""

    exit_code = 6


@contextlib.contextmanager
def own(run_dir: pathlib.Path) -> Iterator[None]:
    """Make the directory and hold its lock; the system frees it when the process ends.

    Raises BusyError that names the holder, RunDirError for a directory that cannot be written to.
    """
    try:
        run_dir.mkdir(parents=True, exist_ok=True)
        lock = open(run_dir / layout.LOCK, "a+", encoding="utf-8")
    except OSError as error:
        raise RunDirError(f"{run_dir} cannot be written to: {error.strerror}") from None
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            lock.seek(0)
            holder = lock.read().strip() or "an unknown process"
            raise BusyError(
                f"{run_dir} is in use by {holder}; wait, stop it, or choose another --workdir"
            ) from None
        except OSError as error:
            raise RunDirError(f"{run_dir} cannot be locked: {error.strerror}") from None
        lock.truncate(0)
        started = time.strftime("%Y-%m-%d %H:%M:%S")
        lock.write(f"process {os.getpid()} on {socket.gethostname()}, started {started}\n")
        lock.flush()
        yield
