"""Ctrl-C while a command starts.

Python answers Ctrl-C with an exception where the program happens to be. While modules are imported
it is swallowed there, or turned into another error: JAX takes seconds to import. So until something
else listens, Ctrl-C ends the process at once where a module is being imported, and elsewhere after
a short time, should the exception be lost. Imports nothing that takes time.
"""

import os
import signal
import sys
import threading
from types import FrameType
from typing import Any

_SWALLOWED = 3.0
"""Seconds after which an exception that has not ended the process counts as lost."""
CODE = 130
_received = threading.Event()


def listen() -> None:
    """Answer Ctrl-C from now on, unless it is ignored: a shell starts a background job so."""
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, _answer)


def interrupted() -> bool:
    """Return whether Ctrl-C was pressed and nothing but this module has answered."""
    return _received.is_set()


def _answer(number: int, frame: FrameType | None) -> None:
    if _received.is_set() or _is_importing(frame):
        os._exit(CODE)
    _received.set()
    _hush()
    timer = threading.Timer(_SWALLOWED, os._exit, (CODE,))
    timer.daemon = True
    timer.start()
    raise KeyboardInterrupt


def _hush() -> None:
    """Let nothing print what follows from the exception; end where it is caught for good.

    Python and extension modules print an exception that they cannot pass on, and go on: in a
    `__del__`, a callback, a thread.
    """

    def unraisable(lost: Any) -> None:
        if lost.exc_type is KeyboardInterrupt:
            os._exit(CODE)

    def uncaught(kind: type[BaseException], *_: object) -> None:
        if kind is KeyboardInterrupt:
            os._exit(CODE)

    sys.unraisablehook, sys.excepthook = unraisable, uncaught
    threading.excepthook = unraisable
    if "logging" in sys.modules:
        sys.modules["logging"].disable()


def _is_importing(frame: FrameType | None) -> bool:
    while frame is not None:
        if frame.f_code.co_filename.startswith("<frozen importlib"):
            return True
        frame = frame.f_back
    return False
