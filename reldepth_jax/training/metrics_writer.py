"""What a run writes about itself: JSON lines as the source of truth, TensorBoard beside them.

None of it is needed to continue: if it cannot be written, one line says so and training goes on.
"""

import contextlib
import os
import pathlib
import socket
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np

from reldepth_jax import json_lines
from reldepth_jax.data.images.pictures import save_picture
from reldepth_jax.run_dir import layout


@contextlib.contextmanager
def _hidden(package: str) -> Iterator[None]:
    """Let imports not find a package that is installed."""
    if package in sys.modules:
        yield
        return
    sys.modules[package] = None  # pyright: ignore[reportArgumentType]: how Python marks it missing
    try:
        yield
    finally:
        del sys.modules[package]


# tensorboardX imports torch if it can, for tensors that it is never given: 2.4 s instead of 0.05.
with _hidden("torch"):
    from tensorboardX import summary
    from tensorboardX.proto.event_pb2 import (
        Event,  # pyright: ignore[reportAttributeAccessIssue]: made when it is imported
    )
    from tensorboardX.record_writer import RecordWriter

_FLUSH = 30.0
"""Seconds after which TensorBoard's file is flushed, which waits for the disk."""


class MetricsWriter:
    """Writes the metrics, TensorBoard's file and the pictures of a run directory.

    TensorBoard's file is written here, not by the thread of tensorboardX's `SummaryWriter`: after
    an error that thread is dead, and the training waits for it.
    """

    def __init__(self, run_dir: pathlib.Path, warn: Callable[[str], None] = print):
        """`warn` is called, once, if something cannot be written."""
        self._run_dir, self._warn = run_dir, warn
        self._board: RecordWriter | None = None
        self._flushed = time.monotonic()
        with self._tolerant():
            folder = run_dir / layout.TENSORBOARD
            folder.mkdir(exist_ok=True)
            name = f"events.out.tfevents.{int(time.time())}.{socket.gethostname()}.{os.getpid()}"
            self._board = RecordWriter(str(folder / name))
        self._show(file_version="brain.Event:2")

    def scalars(self, step: int, group: str, values: Mapping[str, float]) -> None:
        """Write the numbers of `step`; `group` is `train` or `val`."""
        line = {"step": step, "group": group, **values}
        with self._tolerant():
            json_lines.append(self._run_dir / layout.METRICS, line)
        for name, value in values.items():
            self._show(step=step, summary=summary.scalar(f"{group}/{name}", value))

    def picture(self, step: int, name: str, image: np.ndarray) -> None:
        """Write a uint8 (h, w, 3) picture to TensorBoard and to the run directory."""
        self._show(step=step, summary=summary.image(name, image, dataformats="HWC"))
        with self._tolerant():
            save_picture(layout.picture(self._run_dir, step), image)

    def close(self) -> None:
        """Flush and close TensorBoard's file."""
        with self._tolerant():
            if self._board is not None:
                self._board.close()
        self._board = None

    def _show(self, **content: Any) -> None:
        if self._board is None:
            return
        with self._tolerant():
            try:
                self._board.write(Event(wall_time=time.time(), **content).SerializeToString())
                if time.monotonic() - self._flushed > _FLUSH:
                    self._board.flush()
                    self._flushed = time.monotonic()
            except OSError:
                # Half a record ends what TensorBoard can read of a file: no more of it.
                with contextlib.suppress(OSError):
                    self._board.close()
                self._board = None
                raise

    @contextlib.contextmanager
    def _tolerant(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            warn, self._warn = self._warn, lambda line: None
            warn(f"metrics and pictures cannot be written ({error}); training goes on without them")
