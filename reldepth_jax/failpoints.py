"""Named points of a run, where tests can watch it and break it. Nothing happens in production.

`RELDEPTH_TRACE=FILE` appends the name of every point that is reached, one a line, so that a test
knows in which phase a kill hit. `RELDEPTH_FAULT=POINT:ACTION[@N]` acts at the N-th time (default:
the first) that POINT is reached in the process: `kill` (SIGKILL), `sleep=SECONDS`, `enospc`.
"""

import errno
import os
import signal
import threading
import time

_TRACE = os.environ.get("RELDEPTH_TRACE", "")
_FAULT = os.environ.get("RELDEPTH_FAULT", "")
_lock = threading.Lock()
_count = 0


def reach(point: str) -> None:
    """Say that the run is at `point`; OSError if a test asked for a full disk there."""
    if _TRACE:
        # Not buffered: the next instruction may be the last one.
        with open(_TRACE, "ab", buffering=0) as file:
            file.write(f"{point}\n".encode())
    if _FAULT:
        _act(point)


def _act(point: str) -> None:
    global _count
    where, _, what = _FAULT.partition(":")
    action, _, number = what.partition("@")
    if where != point:
        return
    with _lock:
        _count += 1
        if _count != int(number or 1):
            return
    if action == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    elif action == "enospc":
        raise OSError(errno.ENOSPC, "No space left on device")
    elif action.startswith("sleep="):
        time.sleep(float(action.removeprefix("sleep=")))
    else:
        raise ValueError(f"RELDEPTH_FAULT={_FAULT!r}: unknown action")
