"""Printing that never fails: a reader, a terminal or a device may go away while a command works."""

import contextlib
import errno
import os
import sys
from typing import Any, cast

_LEFT = (errno.EPIPE, errno.EIO, errno.ENXIO)
"""What a reader that has left and a closed terminal give: nobody is there to be told."""


class Tolerant:
    """A text stream of which what cannot be written is dropped, with one line about it.

    A character that the encoding lacks is written as its escape.
    """

    def __init__(self, name: str, stream: Any):
        """`name` is what messages call it."""
        self.lost: OSError | ValueError | None = None
        """Why the rest of the output was dropped, unless its reader has left."""
        self._name, self._stream, self._open = name, stream, True
        if getattr(stream, "errors", None) == "strict" and hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        """Write the text, or drop it."""
        self._attempt(self._stream.write, text)
        return len(text)

    def writelines(self, lines: Any) -> None:
        """Write each line, or drop it."""
        for line in lines:
            self.write(line)

    def flush(self) -> None:
        """Pass on what is buffered, or drop it."""
        self._attempt(self._stream.flush)

    def _attempt(self, act: Any, *arguments: Any) -> None:
        if not self._open:
            return
        try:
            act(*arguments)
        except (OSError, ValueError) as error:  # ValueError: it was closed
            self._open = False
            # Python writes its buffers at the end once more, and libraries write there too.
            with contextlib.suppress(OSError, ValueError):
                _point(self._stream.fileno(), os.devnull)
            if getattr(error, "errno", None) in _LEFT:
                return
            self.lost = error
            if self is not sys.stderr:
                reason = getattr(error, "strerror", None) or error
                print(f"error: {self._name} cannot be written: {reason}", file=sys.stderr)


def protect() -> None:
    """Make sys.stdout and sys.stderr tolerant, and open those that are closed on the null device.

    Otherwise the next file that is opened takes the number of a closed one, and what is printed.
    """
    for number in (0, 1, 2):
        try:
            os.fstat(number)
        except OSError:
            _point(number, os.devnull)
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:
            stream = open(os.devnull, "w", encoding="utf-8")
        if not isinstance(stream, Tolerant):
            setattr(sys, name, Tolerant(name, stream))


def lost() -> bool:
    """Return whether output of this command could not be written, though somebody may read it."""
    return isinstance(sys.stdout, Tolerant) and cast(Tolerant, sys.stdout).lost is not None


def _point(number: int, path: str) -> None:
    """Let a file descriptor mean a file."""
    opened = os.open(path, os.O_RDWR)
    if opened != number:
        os.dup2(opened, number)
        os.close(opened)
