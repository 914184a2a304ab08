"""The lock of a run directory: one job at a time, checked before anything is computed."""

import contextlib
import os
import pathlib
import re
import socket
import time
from collections.abc import Iterator

from reldepth_jax.errors import UserError, printable
from reldepth_jax.run_dir import layout

_LONGEST = 500
"""Characters of the lock that are shown."""


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
        os.fspath(run_dir).encode("utf-8")
    except UnicodeEncodeError:
        raise RunDirError(
            f"{os.fsencode(run_dir)!r} cannot be a run directory: its name is not UTF-8"
        ) from None
    try:
        import fcntl
    except ImportError:
        raise RunDirError(
            f"{run_dir} cannot be locked: this platform has no fcntl. Train on Linux, macOS or WSL;"
            " prediction works here"
        ) from None
    try:
        run_dir.mkdir(parents=True, exist_ok=True)
        lock = open(run_dir / layout.LOCK, "a+", encoding="utf-8", errors="replace")
    except OSError as error:
        raise RunDirError(f"{run_dir} cannot be written to: {error.strerror}") from None
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            lock.seek(0)
            name = printable(lock.read(_LONGEST).strip()) or "an unknown process"
            raise BusyError(
                f"{run_dir} is in use by {name}; wait, stop it, or choose another --workdir"
            ) from None
        except OSError as error:
            raise RunDirError(f"{run_dir} cannot be locked: {error.strerror}") from None
        lock.truncate(0)
        started = time.strftime("%Y-%m-%d %H:%M:%S")
        lock.write(f"process {os.getpid()} on {socket.gethostname()}, started {started}\n")
        lock.flush()
        yield


def holder(run_dir: pathlib.Path) -> tuple[str, str]:
    """Return (another machine that took the lock last, process here that holds it), or "".

    Looking at the lock must not take it: the training that starts at this moment would be refused.
    """
    if os.name == "nt":
        # No training runs there, and sending signal 0 would end the process instead of finding it.
        return "", ""
    try:
        text = (run_dir / layout.LOCK).read_text(encoding="utf-8", errors="replace")
    except OSError:
        return "", ""
    match = re.match(r"process (\d{1,9}) on (.{1,255}), started", text)
    if not match:
        return "", ""
    pid, host = int(match[1]), match[2]
    if host != socket.gethostname():
        return host, ""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return "", ""
    except OSError:
        pass
    with contextlib.suppress(OSError):
        # Linux: the number may be that of another process by now.
        locks = pathlib.Path("/proc/locks").read_text(encoding="utf-8")
        if not re.search(rf"FLOCK .*WRITE {pid} ", locks):
            return "", ""
    return "", f"process {pid}"
