"""What happened to a run: its starts, saves and stops, one JSON object a line."""

import contextlib
import json
import os
import pathlib
import time
from typing import Any

from reldepth_jax.run_dir import layout


class History:
    """The events of a run."""

    def __init__(self, run_dir: pathlib.Path):
        self._path = run_dir / layout.HISTORY

    def add(self, event: str, **facts: Any) -> None:
        """Append an event with the time; what cannot be written is no reason to stop."""
        line = json.dumps({"time": round(time.time(), 3), "event": event, **facts})
        with contextlib.suppress(OSError):
            append_line(self._path, line)

    def events(self) -> list[dict[str, Any]]:
        """Return the events, oldest first."""
        return [event for event in json_lines(self._path) if "event" in event]


def append_line(path: str | os.PathLike[str], line: str) -> None:
    """Append a line to a file; one that a kill cut short does not swallow it."""
    # One write of a whole line, also from other threads and processes.
    with open(path, "ab+") as file:
        file.seek(0, os.SEEK_END)
        cut = False
        if file.tell():
            file.seek(-1, os.SEEK_END)
            cut = file.read(1) != b"\n"
        file.write(b"\n" * cut + line.encode("utf-8") + b"\n")


def json_lines(path: pathlib.Path) -> list[dict[str, Any]]:
    """Return the objects of a file of JSON lines, none if there is no file.

    A line that a kill cut short is left out. Raises OSError if the file cannot be read.
    """
    try:
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    except FileNotFoundError:
        return []
    found = []
    for line in lines:
        with contextlib.suppress(ValueError):
            values = json.loads(line)
            if isinstance(values, dict):
                found.append(values)
    return found
