"""How processes that read data begin and end: Ctrl-C does not reach them, and none stays."""

import contextlib
import logging
import multiprocessing
import os
import signal
import sys
import threading
import warnings
from collections.abc import Iterator
from multiprocessing import resource_tracker

_QUIET = "ignore::UserWarning:multiprocessing.resource_tracker"


@contextlib.contextmanager
def spared() -> Iterator[None]:
    """Let the processes that this thread starts meanwhile not hear Ctrl-C, not even as they import.

    Python's tracker of resources, which they share, frees the memory of those that were killed; it
    does so without telling.
    """
    sys.warnoptions.append(_QUIET)
    try:
        resource_tracker.ensure_running()
    finally:
        sys.warnoptions.remove(_QUIET)
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def quieten_decoders() -> None:
    """Let Pillow say nothing: for processes of ours, never for those of users of the package.

    What it says of damaged metadata names no file. Where the image suffers, reading fails.
    """
    warnings.filterwarnings("ignore", module=r"PIL\b")
    logging.getLogger("PIL").setLevel(logging.CRITICAL)


def end_with_parent(_number: int, _count: int) -> None:
    """Let this worker end when its parent has ended, however that was, and not at Ctrl-C.

    A worker that waits for a parent that is gone would stay for good, and with it the shared
    memory: Python's tracker of resources frees that when the last process of a run has ended.
    """
    quieten_decoders()
    # A terminal sends it to all processes; the parent decides.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process()
    if parent is None:
        return

    def watch() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=watch, name="parent", daemon=True).start()
