"""One game for this process, started when it is first needed and ended with the process.

Threads take turns. Another process, forked or spawned, starts a game of its own.
"""

import atexit
import contextlib
import importlib.util
import os
import pathlib
import pickle
import shutil
import signal
import subprocess
import sys
import tempfile
import threading

from reldepth_jax.data.reading.files import DataError
from reldepth_jax.data.sources.vizdoom.game import Frame, Visit

PROGRAM = pathlib.Path(__file__).with_name("game.py")
PATIENCE = 5.0
"""Seconds that a game gets to end by itself."""


def require() -> None:
    """Raise DataError if ViZDoom is not installed; it is not imported."""
    if importlib.util.find_spec("vizdoom") is None:
        raise DataError("vizdoom is not installed: pip install 'reldepth-jax[vizdoom]'")


class Driver:
    """Sends visits to the game; starts it again, once for a visit, where it has failed."""

    def __init__(self) -> None:
        self.forget()

    def forget(self) -> None:
        """Leave the game to another process."""
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._home = ""

    def ask(self, visit: Visit) -> list[Frame]:
        """Return the frames of a visit; DataError if the game fails or there are too few."""
        with self._lock:
            reply = self._try(visit)
            if isinstance(reply, str):
                self._end()
                reply = self._try(visit)
            if isinstance(reply, str):
                self._end()
                raise DataError(f"vizdoom: {visit.map} cannot be rendered: {reply}")
        if len(reply) < visit.frames:
            raise DataError(
                f"vizdoom: {visit.map} has {len(reply)} views worth keeping of {visit.frames} with"
                f" seed {visit.seed}; take another data.source.seed"
            )
        return [Frame(*values) for values in reply]

    def close(self) -> None:
        """End the game, if there is one."""
        if self._lock.acquire(timeout=PATIENCE):
            self._end()
            self._lock.release()

    def _try(self, visit: Visit) -> list[tuple[bytes, bytes]] | str:
        if self._process is None:
            self._home = tempfile.mkdtemp(prefix="vizdoom-")
            self._process = subprocess.Popen(
                [sys.executable, "-P", str(PROGRAM), self._home],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                # Ctrl-C reaches the whole group: the frame that is being awaited must still come.
                start_new_session=True,
            )
        requests, replies = self._process.stdin, self._process.stdout
        assert requests is not None
        assert replies is not None
        try:
            pickle.dump(tuple(visit), requests)
            requests.flush()
            return pickle.load(replies)
        except (OSError, EOFError, pickle.UnpicklingError):
            return "the game ended by itself"

    def _end(self) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        for stream in (process.stdin, process.stdout):
            if stream is not None:
                with contextlib.suppress(OSError):
                    stream.close()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(PATIENCE)
        # The engine is a child of its own in the same group, and outlives a parent that was killed.
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        shutil.rmtree(self._home, ignore_errors=True)


DRIVER = Driver()
atexit.register(DRIVER.close)
os.register_at_fork(after_in_child=DRIVER.forget)
