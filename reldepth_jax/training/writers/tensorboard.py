"""TensorBoard's file of events.

It is written here, not by the thread of tensorboardX's `SummaryWriter`: after an error that thread
is dead, and the training waits for it.
"""

import contextlib
import os
import pathlib
import socket
import sys
import time
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

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
"""Seconds after which the file is flushed, which waits for the disk."""


class TensorBoard:
    """One file of events for each session of a run."""

    def __init__(self, run_dir: pathlib.Path):
        """Raises OSError."""
        self._board: RecordWriter | None = None
        self._flushed = time.monotonic()
        folder = run_dir / layout.TENSORBOARD
        folder.mkdir(exist_ok=True)
        name = f"events.out.tfevents.{int(time.time())}.{socket.gethostname()}.{os.getpid()}"
        self._board = RecordWriter(str(folder / name))
        self._show(file_version="brain.Event:2")

    def scalars(self, step: int, group: str, values: Mapping[str, float]) -> None:
        """Write the numbers of `step`."""
        for name, value in values.items():
            self._show(step=step, summary=summary.scalar(f"{group}/{name}", value))

    def picture(self, step: int, name: str, image: np.ndarray) -> None:
        """Write a uint8 (h, w, 3) picture."""
        self._show(step=step, summary=summary.image(name, image, dataformats="HWC"))

    def close(self) -> None:
        """Flush and close the file."""
        board, self._board = self._board, None
        if board is not None:
            board.close()

    def _show(self, **content: Any) -> None:
        if self._board is None:
            return
        try:
            self._board.write(Event(wall_time=time.time(), **content).SerializeToString())
            if time.monotonic() - self._flushed > _FLUSH:
                self._board.flush()
                self._flushed = time.monotonic()
        except OSError:
            # Half a record ends what TensorBoard can read of a file: no more of it.
            with contextlib.suppress(OSError):
                self.close()
            raise
