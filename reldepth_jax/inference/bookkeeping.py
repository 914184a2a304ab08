"""What was predicted into a folder, so that kills and other jobs lose, repeat and replace nothing.

`predictions.jsonl` has a line for each photograph, appended when its files are complete; an output
belongs to the last line that lists it. One that ends in "/" is a folder with all that it holds.
`.predictions.begun` says before the first of these files is written whose they will be, so that
another job takes other names, and the next one knows what a kill has left half. Lines are appended
under a lock; where the platform or the file system has none, jobs must not share a folder.
"""

import contextlib
import errno
import os
import pathlib
import re
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import IO, Any, Literal, NamedTuple

from reldepth_jax import json_lines
from reldepth_jax.checked_json import JsonError, fields, optional, parse, sequence, text, whole
from reldepth_jax.data.images import io
from reldepth_jax.errors import UserError
from reldepth_jax.inference.writer import is_prediction

MANIFEST = "predictions.jsonl"
_BEGUN = ".predictions.begun"
_LINE = fields(
    {"input": text(), "outputs": sequence(text()), "at": optional(whole(0))}, others=True
)
_TEMPORARY = re.compile(r"\.[0-9a-f]{32}\.tmp")
_PROBE = 1 << 16
"""Bytes that must find room before anything is computed."""
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)
"""Errors that the next photograph would meet as well."""


class PredictError(UserError):
    """Nothing can be predicted: no photographs, or an output folder that cannot be used."""


class OutputError(PredictError):
    """The output folder is full or cannot be written to."""

    exit_code = 6


class Taken(UserError):
    """The files of a photograph would replace another file."""


class Photo(NamedTuple):
    """A photograph to predict."""

    path: pathlib.Path
    names: Callable[[], Iterator[str]]
    """Returns what its outputs may be called, without ending, the best first; without end."""

    @property
    def key(self) -> str:
        """What it is known by, whatever the working directory."""
        return os.path.abspath(self.path)


def outputs_in(folder: str | os.PathLike[str]) -> Iterator[str]:
    """Yield the absolute paths of all that was predicted, or begun, into a folder.

    Raises PredictError if that cannot be read.
    """
    top = os.path.join(os.path.abspath(folder), "")
    for name in (MANIFEST, _BEGUN):
        try:
            for line in json_lines.each(os.path.join(folder, name), _LINE):
                yield from (os.path.normpath(top + output) for output in line["outputs"])
        except NotADirectoryError:
            return
        except OSError as error:
            raise PredictError(f"{io.printable(folder)}/{MANIFEST}: {error.strerror}") from None


class Book:
    """The bookkeeping of one job in an output folder; see `opened`."""

    def __init__(self, folder: pathlib.Path, settings: Mapping[str, Any], endings: Sequence[str]):
        """`settings`: facts of every entry that must agree for a photograph to be done already."""
        self._folder, self._settings, self._endings = folder, settings, endings
        self.alone = False
        """Whether no other job was running when it was opened, so that all is tidy."""
        self._complete, self._begun = _Tail(folder / MANIFEST), _Tail(folder / _BEGUN)
        self._names: dict[str, str] = {}
        """What the outputs of a photograph are called, once that is settled."""
        self._owners: dict[str, str] = {}
        """Photograph by output, the name in lower case, as some file systems compare."""
        self._made: dict[str, tuple[Any, ...]] = {}
        """By output, what it was made of and how."""
        self._ways: list[tuple[Any, ...]] = []
        """The settings that were met so far, each once: a million lines mostly have the same."""
        self._since: dict[str, int] = {}
        """By photograph, how long the manifest was when it was last begun."""
        self._folders: set[str] = set()
        self._until: dict[str, int] = {}
        """By photograph, where its last line in the manifest ends."""

    def done(self, photo: Photo) -> bool:
        """Return whether all that is wanted of a photograph is there, made of this very file."""
        self._refresh()
        name = self._names.get(photo.key)
        if name is None or self._half(photo.key):
            return False
        wanted = self._signature({"input": photo.key, **self._settings, **stamp(photo.path)})
        return all(
            self._made.get(name + ending) == wanted and _holds(self._folder / (name + ending))
            for ending in self._endings
        )

    def facts(self, photo: Photo) -> dict[str, Any]:
        """Return its last line in the manifest; empty if it has none."""
        found: dict[str, Any] = {}
        for line in json_lines.each(self._folder / MANIFEST, _LINE):
            if line["input"] == photo.key:
                found = line
        return found

    def choose(self, photo: Photo) -> str:
        """Return the name of its outputs; Taken if a file lies there that is not of it."""
        self._refresh()
        name = self._names.get(photo.key)
        if name is None:
            name = next(name for name in photo.names() if not self._owned(name))
        for ending in self._endings:
            path = self._folder / (name + ending)
            ours = self._owners.get((name + ending).casefold()) == photo.key
            # Also where the user has put another picture in the place of ours.
            if os.path.lexists(path) and not (ours and is_prediction(path)):
                raise Taken(f"{io.printable(path)} is in the way; choose another output folder")
        return name

    def begin(self, photo: Photo) -> str | None:
        """Settle the name of its outputs before the first is written; Taken as in `choose`.

        None if another job has predicted it meanwhile.
        """
        with self._locked() as length:
            if self.done(photo):
                return None
            name = self.choose(photo)
            outputs = [name + ending for ending in self._endings]
            line = {"input": photo.key, "outputs": outputs, "at": length}
            json_lines.append(self._folder / _BEGUN, line)
        return name

    def finish(self, photo: Photo, entry: Mapping[str, Any]) -> None:
        """Append the line of a photograph whose files are complete."""
        with self._locked():
            if not self.done(photo):  # another job may have begun it at the same time
                line = {"input": photo.key, **stamp(photo.path), **entry}
                json_lines.append(self._folder / MANIFEST, line)

    def tidy_up(self) -> None:
        """Remove what killed jobs wrote under a name for the time being; no job may be running."""
        self._refresh()
        for folder in {self._folder, *(self._folder / each for each in self._folders)}:
            with contextlib.suppress(OSError):
                for name in filter(_TEMPORARY.fullmatch, os.listdir(folder)):
                    (folder / name).unlink(missing_ok=True)

    def _owned(self, name: str) -> bool:
        return any((name + ending).casefold() in self._owners for ending in self._endings)

    def _half(self, key: str) -> bool:
        """Return whether files were begun that no line has followed."""
        return self._until.get(key, 0) <= self._since.get(key, -1)

    def _signature(self, line: Mapping[str, Any]) -> tuple[Any, ...]:
        settings = tuple(line.get(key) for key in self._settings)
        if settings not in self._ways:
            self._ways.append(settings)
        way = self._ways.index(settings)
        return sys.intern(line["input"]), line.get("bytes"), line.get("modified"), way

    def _refresh(self) -> None:
        """Take in what was appended since, by this job and by others."""
        for line, _ in self._begun.new():
            key = sys.intern(line["input"])
            self._since[key] = line.get("at") or 0
            self._take(key, line)
        for line, end in self._complete.new():
            key = sys.intern(line["input"])
            self._until[key] = end
            self._take(key, line)
            made = self._signature(line)
            self._made.update((sys.intern(output), made) for output in line["outputs"])

    def _take(self, key: str, line: Mapping[str, Any]) -> None:
        # Interned: of a million photographs each name is kept once, not by every dictionary.
        for output in line["outputs"]:
            self._owners[sys.intern(output.casefold())] = key
            self._folders.add(os.path.dirname(output))
        first = line["outputs"][0] if line["outputs"] else ""
        if first.endswith(self._endings[0]):
            self._names[key] = first.removesuffix(self._endings[0])

    @contextlib.contextmanager
    def _locked(self) -> Iterator[int]:
        """Hold the lock of the folder; gives how long the manifest is."""
        with open(self._folder / MANIFEST, "ab") as file:
            lock(file, "LOCK_EX")
            yield os.fstat(file.fileno()).st_size


@contextlib.contextmanager
def opened(
    folder: pathlib.Path, settings: Mapping[str, Any], endings: Sequence[str]
) -> Iterator[Book]:
    """Make the folder, see that there is room in it, and tidy up what a killed job left.

    Raises PredictError for what is no output folder, OutputError for one that is full or cannot be
    written to.
    """
    path = folder / MANIFEST
    with contextlib.ExitStack() as open_files:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            lines = json_lines.each(path, _LINE)
            if path.exists() and path.stat().st_size and next(lines, None) is None:
                raise PredictError(
                    f"{io.printable(path)} is not a list of predictions; choose another output"
                    " folder"
                )
            job = open_files.enter_context(open(folder / _BEGUN, "ab"))
            open_files.enter_context(open(path, "ab"))
            _probe(folder)
            book = Book(folder, settings, endings)
            if lock(job, "LOCK_EX", wait=False):
                book.tidy_up()
                book.alone = True
            lock(job, "LOCK_SH")
        except (FileExistsError, NotADirectoryError):
            raise PredictError(f"{io.printable(folder)} is a file; expected a folder") from None
        except OSError as error:
            raise OutputError(unwritable(folder, error)) from None
        yield book


def unwritable(folder: pathlib.Path, error: OSError) -> str:
    """Return in one line that nothing can be written to a folder."""
    reason = error.strerror or str(error)
    return f"{io.printable(folder)} cannot be written to: {reason}; free it or choose another"


def _probe(folder: pathlib.Path) -> None:
    """Raise OSError if there is no room for a little file."""
    with tempfile.TemporaryFile(dir=folder) as file:
        file.write(bytes(_PROBE))
        file.flush()
        os.fsync(file.fileno())


class _Tail:
    """What is appended to a file of JSON lines."""

    def __init__(self, path: pathlib.Path):
        self._path, self._at = path, 0

    def new(self) -> Iterator[tuple[dict[str, Any], int]]:
        """Yield the lines since the last call, each with the byte that it ends before."""
        try:
            if os.stat(self._path).st_size == self._at:
                return
        except FileNotFoundError:
            return
        with open(self._path, "rb") as file:
            file.seek(self._at)
            for line in file:
                if not line.endswith(b"\n"):
                    return  # being written, or cut short by a kill
                self._at += len(line)
                with contextlib.suppress(JsonError):
                    yield parse(line, _LINE), self._at


def stamp(path: pathlib.Path) -> dict[str, int]:
    """Return what changes when a photograph does."""
    try:
        facts = os.stat(path)
    except OSError:
        return {}  # reading it says best what is wrong
    return {"bytes": facts.st_size, "modified": facts.st_mtime_ns}


def _holds(path: pathlib.Path) -> bool:
    """Return whether there is a folder, or a file that is not empty."""
    return path.is_dir() or stamp(path).get("bytes", 0) > 0


def lock(file: IO[bytes], kind: Literal["LOCK_EX", "LOCK_SH"], *, wait: bool = True) -> bool:
    """Lock an open file until it is closed; return whether it was free, or there are no locks."""
    try:
        import fcntl
    except ImportError:
        return True
    try:
        fcntl.flock(file, getattr(fcntl, kind) | (0 if wait else fcntl.LOCK_NB))
    except BlockingIOError:
        return False
    except OSError:
        return True
    return True
