"""What happened to a run: its starts, saves and stops, one JSON object a line."""

import contextlib
import json
import pathlib
import time
from typing import Any

HISTORY = "history.jsonl"


class History:
    """Appends what happened to a run, one JSON object a line: starts, saves, stops."""

    def __init__(self, workdir: pathlib.Path):
        self._path = workdir / HISTORY

    def add(self, event: str, **facts: Any) -> None:
        """Append an event with the time; what cannot be written is no reason to stop."""
        line = json.dumps({"time": round(time.time(), 3), "event": event, **facts})
        # Opened each time: one write of a whole line, also from other threads.
        with contextlib.suppress(OSError), open(self._path, "a", encoding="utf-8") as file:
            file.write(line + "\n")

    def events(self) -> list[dict[str, Any]]:
        """Return the events, oldest first; a line that a kill cut short is left out."""
        try:
            lines = self._path.read_text(encoding="utf-8", errors="replace").splitlines()
        except FileNotFoundError:
            return []
        found = []
        for line in lines:
            with contextlib.suppress(ValueError):
                event = json.loads(line)
                if isinstance(event, dict) and "event" in event:
                    found.append(event)
        return found
