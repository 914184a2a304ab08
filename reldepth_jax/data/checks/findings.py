"""What the doctor reports, one line each."""

import os
import re
from typing import Literal, NamedTuple

from reldepth_jax.data.images import io
from reldepth_jax.errors import UserError

Severity = Literal["error", "warning"]
"""error: training would stop, or learn or be judged by what is wrong."""


class Finding(NamedTuple):
    """Something that is wrong with a data set, or looks like it."""

    severity: Severity
    check: str
    """Which check it comes from: one word or two."""
    place: str
    """The file, or `file:line`, printable."""
    message: str
    """What is wrong, and how to repair it."""


def error(check: str, path: str, message: str) -> Finding:
    """Return what forbids training."""
    return Finding("error", check, io.printable(path), message)


def warning(check: str, path: str, message: str) -> Finding:
    """Return what should be looked at."""
    return Finding("warning", check, io.printable(path), message)


def from_reader(check: str, path: str, complaint: UserError, remedy: str) -> Finding:
    """Return what a reader said, at the file (and line) that it names, else at `path`."""
    if isinstance(complaint, io.UnreadableFile):
        path = os.fspath(complaint.path)
    place, message = io.printable(path), str(complaint)
    named = re.match(rf"({re.escape(place)}(?:/[^:]*)?(?::\d+)?): ", message)
    if named:
        place, message = named[1], message[named.end() :]
    # Some complaints say themselves how to repair it.
    if "again" not in message and "pip install" not in message:
        message += f"; {remedy}"
    return Finding("error", check, place, message)
