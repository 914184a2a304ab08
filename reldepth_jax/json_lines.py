"""Files of JSON objects, one a line, to which processes append that may be killed at any moment."""

import contextlib
import json
import os
from collections.abc import Iterator, Mapping
from typing import Any

from reldepth_jax.checked_json import JsonError, Schema, parse


def append(path: str | os.PathLike[str], values: Mapping[str, Any]) -> None:
    """Append an object; a line before it that a kill cut short does not swallow it.

    Raises OSError.
    """
    # One write of a whole line, also from other threads and processes.
    with open(path, "ab+") as file:
        file.seek(0, os.SEEK_END)
        cut = False
        if file.tell():
            file.seek(-1, os.SEEK_END)
            cut = file.read(1) != b"\n"
        file.write(b"\n" * cut + json.dumps(values).encode() + b"\n")


def read(path: str | os.PathLike[str], schema: Schema) -> list[dict[str, Any]]:
    """Return the objects that `each` yields, with its errors."""
    return list(each(path, schema))


def each(path: str | os.PathLike[str], schema: Schema) -> Iterator[dict[str, Any]]:
    """Yield the objects of a file that are as in `schema`, none if there is no file.

    Lines that a kill cut short, or that something else wrote, are left out. Raises OSError if the
    file cannot be read.
    """
    with contextlib.suppress(FileNotFoundError), open(path, "rb") as file:
        for line in file:
            with contextlib.suppress(JsonError):
                yield parse(line, schema)
