"""What happened to a run: its starts, saves and stops, and its numbers, one JSON object a line."""

import contextlib
import pathlib
import time
from typing import Any

from reldepth_jax import json_lines
from reldepth_jax.checked_json import JsonError, fields, number, optional, text, whole
from reldepth_jax.run_dir import layout

_LATEST = 1e11
"""Seconds: calendars end somewhere behind."""
_FIELDS = fields(
    {
        "time": number(0, _LATEST),
        "event": text(),
        "step": optional(whole(0, 10**15)),
        "lost": optional(whole(0, 10**15)),
        **dict.fromkeys(("what", "reason", "error"), optional(text())),
    },
    others=True,
)

_NUMBERS = fields(
    {
        "step": whole(0, 10**15),
        "group": text(),
        "time": optional(number(0, _LATEST)),
        "whdr": optional(number(0, 1)),
        "skipped": optional(number(0, 10**15)),
    },
    others=True,
)


class History:
    """The events of a run."""

    def __init__(self, run_dir: pathlib.Path):
        self._path = run_dir / layout.HISTORY

    def add(self, event: str, **facts: Any) -> None:
        """Append an event with the time; what cannot be written is no reason to stop."""
        with contextlib.suppress(OSError):
            json_lines.append(self._path, {"time": round(time.time(), 3), "event": event, **facts})

    def events(self) -> list[dict[str, Any]]:
        """Return the events, oldest first. Those of starts and saves have a step."""
        return json_lines.read(self._path, _event)


def metrics(run_dir: pathlib.Path, group: str) -> list[dict[str, Any]]:
    """Return the numbers of `train` or `val`, oldest first; OSError if they cannot be read."""
    lines = json_lines.read(run_dir / layout.METRICS, _NUMBERS)
    return [line for line in lines if line["group"] == group]


def _event(value: Any) -> dict[str, Any]:
    event = _FIELDS(value)
    if event["event"] in ("start", "saved") and event.get("step") is None:
        raise JsonError("is missing", "step")
    return event
