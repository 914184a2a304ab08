"""Tables of comma-separated values: one row for each logged step, one file for each group."""

import csv
import io
import os
import pathlib
import time
from collections.abc import Mapping

import numpy as np

from reldepth_jax.run_dir import layout


class CsvFiles:
    """Appends rows with the columns `step`, `time` (Unix seconds) and the numbers by name.

    A continued run appends: of a step that was taken again after a kill, the last row counts.
    """

    def __init__(self, run_dir: pathlib.Path):
        self._run_dir = run_dir
        self._columns: dict[str, list[str]] = {}

    def scalars(self, step: int, group: str, values: Mapping[str, float]) -> None:
        """Append a row. Raises OSError, also for a file that has other columns."""
        path = layout.table(self._run_dir, group)
        if group not in self._columns:
            self._columns[group] = _columns(path)
        row = {"step": step, "time": round(time.time(), 3), **values}
        title = [] if self._columns[group] else [[*row]]
        if self._columns[group] not in ([], [*row]):
            raise OSError(f"{path} has other columns; move it away")
        text = io.StringIO()
        csv.writer(text, lineterminator="\n").writerows([*title, [*row.values()]])
        # One write of whole lines.
        with open(path, "ab", buffering=0) as file:
            file.write(text.getvalue().encode())
        self._columns[group] = [*row]

    def picture(self, step: int, name: str, image: np.ndarray) -> None:
        """Write nothing: tables hold numbers."""

    def close(self) -> None:
        """Do nothing: no file stays open."""


def _columns(path: pathlib.Path) -> list[str]:
    """Return the titles in a file, none if it is new; a row that a kill cut short is removed."""
    try:
        whole = path.read_bytes()
    except FileNotFoundError:
        return []
    end = whole.rfind(b"\n") + 1
    if end < len(whole):
        os.truncate(path, end)
    return next(csv.reader(whole[:end].decode("utf-8", "replace").splitlines()), [])
