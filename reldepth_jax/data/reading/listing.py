"""Which files lie below a folder: the one place that walks folders of photographs and maps."""

import collections
import os
import pathlib
from collections.abc import Callable, Set
from typing import NamedTuple

from reldepth_jax.data.images import decoding, io

_RAW = frozenset(".dng .nef .cr2 .cr3 .arw .orf .rw2 .raf .pef .srw .x3f".split())
_LONGEST = 12
"""Characters of an extension that are shown."""


class Listing(NamedTuple):
    """The files below a folder, hidden ones aside."""

    paths: list[str]
    """Those with a known extension, from the folder on, with forward slashes. Of each folder first
    its files, then its sub-folders, both sorted; linked folders come last."""
    left_out: collections.Counter[str]
    """How many others there are, by extension in lower case."""


def listing(
    folder: str | os.PathLike[str],
    suffixes: Set[str],
    avoid: str | os.PathLike[str] | None = None,
    skip: Callable[[str, str], bool] = lambda parent, name: False,
) -> Listing:
    """List the files below `folder`, but not below `avoid`, nor those that are to `skip`.

    `skip` takes a file's folder and its name; it is asked about the files of a folder before those
    of its sub-folders. Links to folders are followed; each folder is listed once, whatever leads to
    it.

    Raises UnreadableFile for a folder that cannot be listed.
    """
    found = Listing([], collections.Counter())
    seen = {_identity(avoid)} if avoid is not None else set()
    # Links wait, so that a folder that is there itself is not listed under the name of a link.
    waiting = [os.fspath(folder)]
    for start in waiting:
        for parent, folders, names in os.walk(start, onerror=_fail):
            if _identity(parent) in seen:
                folders.clear()
                continue
            seen.add(_identity(parent))
            folders[:] = sorted(name for name in folders if not name.startswith("."))
            paths = (os.path.join(parent, name) for name in folders)
            waiting += filter(os.path.islink, paths)
            inside = pathlib.PurePath(os.path.relpath(parent, folder))
            for name in sorted(name for name in names if not name.startswith(".")):
                suffix = os.path.splitext(name)[1].lower()
                if skip(parent, name):
                    continue
                if suffix in suffixes:
                    found.paths.append((inside / name).as_posix())
                else:
                    found.left_out[suffix[:_LONGEST]] += 1
    return found


def describe(left_out: collections.Counter[str]) -> str:
    """Return one line about files that are left out: how many of which kind, and what reads them.

    Empty if there are none.
    """
    if not left_out:
        return ""
    ordered = sorted(left_out.items(), key=lambda pair: (-pair[1], pair[0]))
    kinds = ", ".join(
        f"{count} {io.printable(kind) or 'without extension'}" for kind, count in ordered
    )
    count = left_out.total()
    line = f"{count} file{'s' if count > 1 else ''} left out: {kinds}"
    # Only what cannot be read is left out.
    for suffixes, hint in (
        (io.HEIC_SUFFIXES, decoding.INSTALL_HEIC),
        (io.AVIF_SUFFIXES, decoding.INSTALL_AVIF),
        (_RAW, decoding.DEVELOP_RAW),
    ):
        if suffixes & left_out.keys():
            line += f"; {hint}"
    if "" in left_out:
        line += "; a photograph without extension is read if it is named"
    return line


def _identity(folder: str | os.PathLike[str]) -> tuple[int, int]:
    status = os.stat(folder)
    return status.st_dev, status.st_ino


def _fail(error: OSError) -> None:
    raise io.UnreadableFile(error.filename, f"cannot be listed: {error.strerror}") from None
