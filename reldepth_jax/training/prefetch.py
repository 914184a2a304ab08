"""The next batch, without waiting for it forever.

A thread keeps one batch ahead of the loop, so that the loop can stop, or complain, while a file
system hangs. Batches are functions of the step: after a worker process was killed the pipeline is
opened again at the same step and nothing is lost or repeated.
"""

import queue
import threading
from collections.abc import Callable, Iterator

import numpy as np

from reldepth_jax import failpoints
from reldepth_jax.data import workers
from reldepth_jax.errors import UserError
from reldepth_jax.training.preemption import Interrupt

Batch = dict[str, np.ndarray]
RESTARTS = 3
_CLOSING = 2.0
"""Seconds that the thread has to end."""


class DataStopped(UserError):
    """There are no more batches."""

    exit_code = 3


class Fetcher:
    """Gives the batches of steps `start`, `start + 1`, …"""

    def __init__(
        self,
        open_batches: Callable[[int], Iterator[Batch]],
        start: int,
        *,
        timeout: float,
        interrupt: Interrupt,
        warn: Callable[[str], None],
        reading: Callable[[], str] = lambda: "",
    ):
        """Begin at once; `warn` is called with a line for each worker that was lost.

        `reading` returns what is being read, empty if that is not known.
        """
        self._open, self._step = open_batches, start
        self._timeout, self._interrupt, self._warn = timeout, interrupt, warn
        self._reading = reading
        self._ready: queue.Queue[Batch | Exception] = queue.Queue(maxsize=1)
        self._closed = threading.Event()
        # Not the thread's own: grain ends its workers when they are dropped and when the process
        # ends, and both at once is an error there.
        self._batches: Iterator[Batch] | None = None
        self._thread = threading.Thread(target=self._run, name="fetch", daemon=True)
        self._thread.start()

    def __iter__(self) -> Iterator[Batch]:
        return self

    def __next__(self) -> Batch:
        """Return the next batch.

        Raises Stopped at an interrupt, DataStopped after `timeout` seconds or `RESTARTS` lost
        workers, and whatever reading raised.
        """
        waited = 0.0
        while True:
            try:
                item = self._ready.get(timeout=0.1)
            except queue.Empty:
                self._interrupt.check()
                waited += 0.1
                if waited >= self._timeout:
                    what = self._reading()
                    raise DataStopped(
                        f"step {self._step}: no batch for {self._timeout:g} seconds"
                        f"{', reading ' if what else ''}{what}; is the file system of the data set"
                        " hanging? data.timeout sets how long to wait"
                    ) from None
                continue
            if isinstance(item, Exception):
                raise item
            self._step += 1
            return item

    def close(self) -> None:
        """Let the thread end; a batch that it waits for is not waited for."""
        self._closed.set()
        self._thread.join(_CLOSING)

    def _run(self) -> None:
        with workers.spared():
            self._fetch()

    def _fetch(self) -> None:
        step, restarts = self._step, 0
        while not self._closed.is_set():
            failpoints.reach("data")
            try:
                if self._batches is None:
                    self._batches = self._open(step)
                item: Batch | Exception = next(self._batches)
                step += 1
            except Exception as error:
                if self._closed.is_set():
                    return
                if _worker_died(error) and restarts < RESTARTS:
                    restarts += 1
                    self._warn(f"step {step}: a data worker died ({_line(error)}); opened again")
                    self._batches = None
                    continue
                item = error
                if _worker_died(error):
                    item = DataStopped(
                        f"step {step}: data workers died {restarts + 1} times ({_line(error)});"
                        " probably for lack of memory: lower data.workers or data.prefetch"
                    )
            while not self._closed.is_set():
                try:
                    self._ready.put(item, timeout=0.1)
                    break
                except queue.Full:
                    continue
            if isinstance(item, Exception):
                return


def _worker_died(error: Exception) -> bool:
    return isinstance(error, RuntimeError) and "exit code" in str(error)


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:200]
