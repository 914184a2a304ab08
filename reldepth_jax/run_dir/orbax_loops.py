"""Orbax without what it prints when a file is damaged or a disk is full.

At the first array that cannot be read or written Orbax closes its event loop and raises. The others
go on in threads of their own, find their loop closed and print a traceback each: thousands of lines
about one damaged file. What it raises is told in one line by `checkpoints`.
"""

import asyncio
import contextlib
import functools
import logging
import os
import threading
import traceback
import warnings
from collections.abc import Callable, Iterator

_PATIENCE = 30.0
"""Seconds that the other arrays may take."""
_lock = threading.Lock()
_users = 0
_new_event_loop = asyncio.new_event_loop


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Let Orbax's event loops end in order meanwhile, and drop what it logs."""
    global _users
    with _lock:
        _users += 1
        asyncio.new_event_loop = _patient_loop
        _absl.addFilter(_not_of_orbax)
    try:
        yield
    except BaseException as error:
        _forget(error)
        raise
    finally:
        with _lock:
            _users -= 1
            if not _users:
                asyncio.new_event_loop = _new_event_loop
                _absl.removeFilter(_not_of_orbax)


def _forget(error: BaseException | None) -> None:
    """Drop what the frames of an error hold: Python warns of coroutines that were never begun."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        while error is not None:
            traceback.clear_frames(error.__traceback__)
            error = error.__context__


def _patient_loop() -> asyncio.AbstractEventLoop:
    """Return a new event loop that closes when its tasks have ended."""
    loop = _new_event_loop()
    loop.close = functools.partial(_close, loop, loop.close)
    return loop


def _close(loop: asyncio.AbstractEventLoop, close: Callable[[], None]) -> None:
    left = set() if loop.is_closed() else asyncio.all_tasks(loop)
    if left:
        ended, _ = loop.run_until_complete(asyncio.wait(left, timeout=_PATIENCE))
        for task in ended:
            if not task.cancelled():
                # One that nobody has taken would be logged.
                task.exception()
    close()


def _not_of_orbax(record: logging.LogRecord) -> bool:
    return f"{os.sep}orbax{os.sep}" not in record.pathname


_absl = logging.getLogger("absl")
