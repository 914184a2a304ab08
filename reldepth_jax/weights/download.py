"""Fetches public files: whole and with the right SHA-256, or not at all.

Own code on the standard library: of the libraries for this, pooch does not resume and raises bare
exceptions of requests, huggingface_hub compares no SHA-256 of files from elsewhere.

What has come of a file stays as FILE.part, with the server's mark of its version (ETag or date) in
FILE.part.etag. The rest is asked for only of the same version, so that no two are glued.
"""

import contextlib
import errno
import hashlib
import os
import pathlib
import shutil
import sys
import time
import uuid
from collections.abc import Iterator
from typing import IO, Any

from reldepth_jax.errors import printable
from reldepth_jax.public_files import PublicFile
from reldepth_jax.weights import https
from reldepth_jax.weights.tensors import WeightsError

TRIES = 5
"""In a row without anything gained, before giving up."""
WAITS = (1.0, 2.0, 4.0, 8.0)
"""Seconds between them, unless the server asks for others."""
PROGRESS_EVERY = 10.0
"""Seconds between lines of progress where stderr is no terminal."""


class DownloadError(WeightsError):
    """A file that could not be fetched, in one line that says what to do by hand."""


class CacheError(DownloadError):
    """A folder that cannot take the file: full, or not writable."""

    exit_code = 6


def say(line: str) -> None:
    """Tell the user on stderr."""
    print(printable(line), file=sys.stderr, flush=True)


@contextlib.contextmanager
def alone(path: pathlib.Path) -> Iterator[bool]:
    """Let no other process make the same file; waits for the one that does.

    Gives False where there are no such locks: on some platforms, and some network file systems.
    """
    with contextlib.ExitStack() as held:
        locked = False
        with contextlib.suppress(ImportError, OSError):
            import fcntl

            file = held.enter_context(open(path.with_name(f"{path.name}.lock"), "ab"))
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                say(f"waiting for another process, which fetches {path}")
                fcntl.flock(file, fcntl.LOCK_EX)
            locked = True
        yield locked


def fetch(public: PublicFile, path: pathlib.Path, expected: str, *, locked: bool) -> str:
    """Fetch a public file to `path`; return its SHA-256.

    Args:
      expected: beginning of the SHA-256 that it must have.
      locked: whether no other process does the same (`alone`). Otherwise what has come is not kept
        after a failure, since two could write to it.

    Raises DownloadError or CacheError, one line with what to do by hand.
    """
    part = path.with_name(f"{path.name}.part" if locked else f".{uuid.uuid4().hex}.part")
    began = time.monotonic()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        have = _size(part)
        say(f"{public.name}: fetching {public.url}" + (f" from {_mb(have)} on" if have else ""))
        digest = _of_digest(public, part, expected)
        os.replace(part, path)
        _mark_file(part).unlink(missing_ok=True)
    except https.Final as error:
        have = _size(part) if locked else 0
        kept = f" The {_mb(have)} that have come are kept: the same command goes on." * bool(have)
        raise DownloadError(f"{public.name}: {error}.{kept} {by_hand(public, path)}") from None
    except OSError as error:
        what = f"cannot be written to ({error.strerror or error})"
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            needed = f" ({_mb(public.size)} are needed)" if public.size else ""
            what = f"has no space left{needed}"
        raise CacheError(
            f"{public.name}: {path.parent} {what}; mend that, or let RELDEPTH_CACHE name another"
            " folder"
        ) from None
    finally:
        if not locked:
            part.unlink(missing_ok=True)
            _mark_file(part).unlink(missing_ok=True)
    say(f"{public.name}: saved {path} ({_mb(_size(path))}, {time.monotonic() - began:.0f} s)")
    return digest


def by_hand(public: PublicFile, path: pathlib.Path) -> str:
    """Return what a person can do in place of `fetch`."""
    if not public.url:
        return f"Get it from {public.page} and save it as {path}"
    return f"By hand: save {public.url} as {path}"


def file_digest(path: pathlib.Path) -> str:
    """Return the SHA-256 of a file."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _of_digest(public: PublicFile, part: pathlib.Path, expected: str) -> str:
    """Fetch to `part` until its digest is the expected one; return it."""
    resumed = _size(part) > 0
    while True:
        _all(public, part)
        digest = file_digest(part)
        if digest.startswith(expected):
            return digest
        size = _size(part)
        part.unlink()
        if not resumed:
            raise https.Final(
                f"what {https.host_of(public.url)} sends ({_mb(size)}) has the SHA-256 {digest},"
                f" not {expected}{'…' * (len(expected) < 64)} as published: it was changed, by the"
                " publisher or on the way. Nothing is kept"
            )
        say(f"{public.name}: the parts do not make the published file; fetching all of it again")
        resumed = False


def _all(public: PublicFile, part: pathlib.Path) -> None:
    """Receive until nothing is missing, with further tries after passing failures."""
    failures, most = 0, _size(part)
    while True:
        try:
            return _receive(public, part)
        except https.Passing as error:
            have = _size(part)
            failures = 1 if have > most else failures + 1
            most = max(most, have)
            if failures == TRIES:
                raise https.Final(f"{error}, {TRIES} times") from None
            wait = WAITS[failures - 1] if error.wait is None else error.wait
            say(f"{public.name}: {error}; trying again in {wait:g} s")
            time.sleep(wait)


def _receive(public: PublicFile, part: pathlib.Path) -> None:
    """Receive what is missing, once. Raises Passing, Final; OSError of the file system."""
    with open(part, "ab") as file:
        have, mark = file.tell(), _read_mark(part)
        if have and not mark:
            have = _from_start(file, part, "")
        response = https.get(public.url, have, mark)
        if response is None:
            return
        with contextlib.closing(response):
            if response.status != 206:
                have = _from_start(file, part, _mark(response.headers))
            elif not response.headers.get("Content-Range", "").startswith(f"bytes {have}-"):
                _from_start(file, part, "")
                raise https.Passing(
                    f"{https.host_of(public.url)} sends another part than it was asked for"
                )
            length = response.headers.get("Content-Length", "")
            total = have + int(length) if length.isdecimal() else None
            if total is not None and total - have > shutil.disk_usage(part.parent).free:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            with contextlib.closing(_Progress(public.name, have)) as progress:
                while chunk := https.read(response, public.url):
                    file.write(chunk)
                    have += len(chunk)
                    progress.show(have, total or public.size)
        file.flush()
        os.fsync(file.fileno())
    if total is not None and have < total:
        raise https.Passing(f"{https.host_of(public.url)} ends after {_mb(have)} of {_mb(total)}")


def _mark_file(part: pathlib.Path) -> pathlib.Path:
    return part.with_name(f"{part.name}.etag")


def _read_mark(part: pathlib.Path) -> str:
    with contextlib.suppress(OSError, UnicodeDecodeError):
        mark = _mark_file(part).read_text(encoding="ascii")
        return mark if mark.isprintable() else ""
    return ""


def _mark(headers: Any) -> str:
    """Return what tells this version of the file from others, for If-Range; empty if nothing."""
    tag = headers.get("ETag", "")
    return tag if tag.startswith('"') else headers.get("Last-Modified", "")


def _from_start(file: IO[bytes], part: pathlib.Path, mark: str) -> int:
    """Throw away what has come, then note the version of what will come; return 0."""
    file.truncate(0)
    _mark_file(part).write_text(mark, encoding="ascii", errors="ignore")
    return 0


def _size(path: pathlib.Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _mb(size: int | float) -> str:
    return f"{size / 1e6:.1f} MB"


class _Progress:
    """Shows rate and time left on stderr: on one line of a terminal, elsewhere a line at times."""

    def __init__(self, name: str, done: int):
        self._name, self._first = name, done
        self._began = self._shown = time.monotonic()
        self._terminal = sys.stderr.isatty()

    def show(self, done: int, total: int) -> None:
        """Show `done` of `total` bytes (0: not known), if it is time to."""
        now = time.monotonic()
        if now - self._shown < (0.2 if self._terminal else PROGRESS_EVERY):
            return
        self._shown = now
        rate = (done - self._first) / (now - self._began)
        seconds = max(0, total - done) / rate
        left = f"{seconds:.0f} s" if seconds < 100 else f"{seconds / 60:.0f} min"
        of = f"{done / 1e6:.1f} of {_mb(total)}" if total else _mb(done)
        text = f"{self._name}: {of}, {_mb(rate)}/s" + (f", {left} left" if total else "")
        print(
            f"\r{text:78}" if self._terminal else text,
            end="" if self._terminal else "\n", file=sys.stderr, flush=True,
        )  # fmt: skip

    def close(self) -> None:
        """Clear the line of a terminal."""
        if self._terminal:
            print(f"\r{'':78}\r", end="", file=sys.stderr, flush=True)
