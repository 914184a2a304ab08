"""Predicting photographs by the workers of a Ray cluster, with Ray Data.

Each worker is an actor that holds the network and, of the output folder that all share, the book.
So files, names and manifest are those of `files.predict_files`, and a worker that dies loses
nothing: Ray gives its photographs to a new one, which does not repeat what the manifest lists.
"""

import collections
import contextlib
import dataclasses
import logging
import os
import pathlib
import socket
import sys
import time
import uuid
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np

from reldepth_jax import runtime
from reldepth_jax.data.images import io
from reldepth_jax.data.workers import quieten_decoders
from reldepth_jax.inference import bookkeeping
from reldepth_jax.inference.bookkeeping import OutputError, Photo, PredictError
from reldepth_jax.inference.files import Counts, Job, Progress
from reldepth_jax.inference.inputs import Named, Photographs
from reldepth_jax.inference.writer import Writer

_BLOCK = 64
"""Photographs that a worker is given at once, at most, while there are fewer than `_BLOCKS` of
these: what is counted once for each block costs milliseconds."""
_BLOCKS = 4096
_DEATHS = 3
"""After so many workers that died over it a photograph counts as failed."""
_ENDING = 5.0
"""Seconds that workers have to end after their last photograph."""
_ANSWERING = 10.0
"""Seconds in which the head of a cluster must take a connection."""
_GPU_MEMORY = 0.75
"""Share of a GPU's memory that JAX takes by default."""


@dataclasses.dataclass(frozen=True)
class _Task:
    """What every worker is told."""

    predictor: Callable[[np.ndarray], np.ndarray]
    writer: Writer
    taken: frozenset[str]
    max_pixels: int
    deaths: int
    job: str
    """16 hexadecimal digits."""


class _Tries:
    """Knows over which photographs workers have died: Ray itself would try them without end.

    Each worker has a file in the output folder, locked while it lives, with the photograph that it
    is at. It is named as what `Book.tidy_up` removes, should this job be killed itself.
    """

    def __init__(self, folder: pathlib.Path, job: str):
        """Count the dead of a job, and make the file of this worker."""
        self._deaths = collections.Counter[bytes]()
        for path in self.files(folder, job):
            with open(path, "rb") as file:
                if bookkeeping.lock(file, "LOCK_SH", wait=False):
                    self._deaths[file.read().partition(b"\0")[0]] += 1
        self._file = open(folder / f".{job}{uuid.uuid4().hex[:16]}.tmp", "xb")
        bookkeeping.lock(self._file, "LOCK_EX")

    @staticmethod
    def files(folder: pathlib.Path, job: str) -> Iterator[pathlib.Path]:
        """Yield the files of all workers that a job had."""
        return folder.glob(f".{job}*.tmp")

    def deaths(self, key: str) -> int:
        """Return how many workers had died over a photograph before this one began."""
        return self._deaths[os.fsencode(key)]

    def begin(self, key: str) -> None:
        """Say over which photograph this worker would die."""
        self._file.seek(0)
        self._file.write(os.fsencode(key) + b"\0")  # what a longer path leaves behind is no matter
        self._file.flush()


class _Worker:
    """Predicts blocks of photographs, in a process of its own."""

    def __init__(self, task: Any, gpus: float):
        """`task`: where Ray keeps the `_Task`."""
        import ray

        quieten_decoders()
        if 0 < gpus < 1:
            share = str(_GPU_MEMORY * gpus)
            os.environ.setdefault("XLA_PYTHON_CLIENT_MEM_FRACTION", share)
        runtime.set_up()
        runtime.keep_compiled()
        self._task: _Task = ray.get(task)
        writer = self._task.writer
        self._closing = contextlib.ExitStack()
        book = self._closing.enter_context(
            bookkeeping.opened(writer.output, writer.settings, writer.endings)
        )
        self._tries = _Tries(writer.output, self._task.job)
        self._job = Job(self._task.predictor, writer, book, self._task.max_pixels)

    def __call__(self, block: Any) -> dict[str, Any]:
        """Return outcome and line of each row of a table of pyarrow."""
        outcomes, lines = [], []
        for row in block.to_pylist():
            named = Named(os.fsdecode(row["folder"]), os.fsdecode(row["relative"]), row["alone"])
            outcome, line = self._predict(named.photo(self._task.writer.endings, self._task.taken))
            outcomes.append(outcome)
            lines.append(os.fsencode(line))
        return {"outcome": np.array(outcomes), "line": lines}

    def _predict(self, photo: Photo) -> tuple[str, str]:
        deaths = self._tries.deaths(photo.key)
        if deaths >= self._task.deaths:
            return "failed", (
                f"{io.printable(photo.path)}: {deaths} workers died over it, of memory or a damaged"
                " file; predict it alone, without --ray, to see"
            )
        self._tries.begin(photo.key)
        try:
            return self._job(photo)
        except OutputError as error:
            return "full", str(error)


def leave_devices_to_workers() -> None:
    """Let this process load the network into the memory of the host, not of a GPU."""
    jax.config.update("jax_platforms", "cpu")


def predict(
    predictor: Callable[[np.ndarray], np.ndarray],
    chosen: Photographs,
    writer: Writer,
    workers: int,
    progress: Progress = lambda done, total: None,
    max_pixels: int = io.MAX_PIXELS,
) -> Counts:
    """Predict photographs by so many workers, of the cluster of RAY_ADDRESS or of this machine.

    What the manifest lists is left out before anything is sent. All machines must see photographs
    and output folder under the same paths, and have this package. GPUs of the cluster are shared
    among the workers, at most one for each; a worker is placed where there is a core for it.

    A photograph over which workers die counts as failed. Raises as `files.predict_files`, and
    PredictError if there is no such cluster, or no worker can start.
    """
    address = _cluster()  # before anything is written
    output = writer.output.absolute()
    writer = dataclasses.replace(writer, output=output)
    counts = collections.Counter[str]()
    left = []
    # Open while workers are: another job that begins tidies up nothing of theirs.
    with bookkeeping.opened(output, writer.settings, writer.endings) as book:
        for each in chosen.named:
            if book.done(each.photo(writer.endings, chosen.taken)):
                counts["there"] += 1
            else:
                left.append(each._replace(folder=os.path.abspath(each.folder)))
        del book  # which would keep up with a million lines
        progress(counts["there"], len(chosen.named))
        job = uuid.uuid4().hex[:16]
        task = _Task(predictor, writer, chosen.taken, max_pixels, _DEATHS, job)
        try:
            if left:
                _predict(task, left, workers, address, counts, progress)
        finally:
            for file in _Tries.files(output, job):
                file.unlink(missing_ok=True)
    if left:
        _tidy_up(writer)
    return Counts(counts["done"], counts["failed"], counts["there"])


def _tidy_up(writer: Writer) -> None:
    """Remove what workers that died left, as soon as the others have ended; other jobs may not."""
    until = time.monotonic() + _ENDING
    while time.monotonic() < until:
        with bookkeeping.opened(writer.output, writer.settings, writer.endings) as book:
            if book.alone:
                return
        time.sleep(0.2)


def _predict(
    task: _Task,
    left: list[Named],
    workers: int,
    address: str | None,
    counts: collections.Counter[str],
    progress: Progress,
) -> None:
    total = counts.total() + len(left)
    with _connected(workers, address):
        for outcome, line in _outcomes(task, left, workers):
            if outcome == "full":
                raise OutputError(line)
            if line:
                print(line, file=sys.stderr)
            # "there": of a worker that died since, or of another job.
            counts["failed" if outcome == "failed" else "done"] += 1
            progress(counts.total(), total)


def _outcomes(task: _Task, left: list[Named], workers: int) -> Iterator[tuple[str, str]]:
    """Yield outcome and line of each photograph, as they come."""
    import pyarrow
    import ray
    import ray.data
    import ray.exceptions

    columns = {
        "folder": pyarrow.array([os.fsencode(each.folder) for each in left]).dictionary_encode(),
        "relative": pyarrow.array([os.fsencode(each.relative) for each in left]),
        "alone": pyarrow.array([each.alone for each in left]),
    }
    table = pyarrow.table(columns)
    size = max(1, min(_BLOCK, len(left) // (8 * workers)), len(left) // _BLOCKS)
    blocks = [table.slice(start, size) for start in range(0, len(left), size)]
    gpus = min(1.0, ray.cluster_resources().get("GPU", 0) / workers)
    labelled = ray.data.from_arrow(blocks).map_batches(
        _Worker,
        batch_size=None,
        batch_format="pyarrow",
        compute=ray.data.ActorPoolStrategy(size=workers, max_tasks_in_flight_per_actor=2),
        fn_constructor_args=(ray.put(task), gpus),
        num_cpus=1,
        num_gpus=gpus,
    )
    try:
        for row in labelled.iter_rows():
            yield row["outcome"], os.fsdecode(row["line"])
    except ray.exceptions.RayError as error:
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        raise PredictError(f"the workers cannot go on: {io.printable(lines[-1])}") from error


@contextlib.contextmanager
def _connected(workers: int, address: str | None) -> Iterator[None]:
    """Be connected to a cluster, of `workers` cores of this machine if it has no address.

    A program that is connected already stays so.
    """
    import ray
    import ray.data

    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    if ray.is_initialized():
        yield
        return
    how = {} if address else {"address": "local", "num_cpus": workers, "include_dashboard": False}
    try:
        with warnings.catch_warnings():
            # JAX warns of any fork; what Ray starts becomes another program at once.
            warnings.filterwarnings("ignore", ".*os.fork", RuntimeWarning)
            ray.init(log_to_driver=False, logging_level=logging.ERROR, **how)
    except ConnectionError as error:
        line = next(iter(str(error).splitlines()), "")
        raise PredictError(f"no Ray cluster at RAY_ADDRESS={address}: {line}") from None
    try:
        yield
    finally:
        ray.shutdown()


def _cluster() -> str | None:
    """Return RAY_ADDRESS, if it is set; raise PredictError if nobody listens there.

    A program that is connected already is not asked.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    # Its warnings are about how Ray Data itself is written.
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
    # Each try takes 40 s, and warns three times.
    os.environ.setdefault("RAY_NUM_REDIS_GET_RETRIES", "1")
    import ray

    address = os.environ.get("RAY_ADDRESS")
    if address and not ray.is_initialized():
        _require_answer(address, ray.util.get_node_ip_address())
    return address


def _require_answer(address: str, here: str) -> None:
    """Raise PredictError where nobody listens: Ray itself would try for minutes, and tell of each.

    Args:
      here: this machine's address, which Ray takes for that of the local host.
    """
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if not host and not port.isdecimal():
        return  # "auto", of which Ray knows where it is
    try:
        if not 0 < int(port) < 1 << 16:
            raise ValueError
        host = host.strip("[]")
        if host in ("127.0.0.1", "localhost", "::1"):
            host = here
        socket.create_connection((host, int(port)), _ANSWERING).close()
    except ValueError:
        raise PredictError(
            f"RAY_ADDRESS={address}: name HOST:PORT of the cluster's head, as `ray start` has"
            " printed it, or auto"
        ) from None
    except OSError as error:
        reason = error.strerror or error
        raise PredictError(
            f"no Ray cluster answers at RAY_ADDRESS={address}: {reason}; is it running (`ray"
            " status`)? Unset RAY_ADDRESS for workers of this machine"
        ) from None
