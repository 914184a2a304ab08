"""Which photographs are to be predicted, each once, and what their outputs may be called.

A million of them are some 300 MB: what is kept of each is one string, and its folder is shared.
"""

import contextlib
import dataclasses
import functools
import itertools
import os
import pathlib
import sys
from collections.abc import Iterator, Sequence
from typing import IO, NamedTuple

import numpy as np
from jaxtyping import Bool

from reldepth_jax.data.images import io
from reldepth_jax.data.reading.listing import describe, listing
from reldepth_jax.inference import bookkeeping
from reldepth_jax.inference.bookkeeping import MANIFEST, Photo, PredictError
from reldepth_jax.inference.writer import Writer


@dataclasses.dataclass(frozen=True)
class Shard:
    """The part of the photographs that one of several jobs takes: every `count`-th, from `index`.

    Jobs that are given the same photographs in the same order take each of them once.
    """

    index: int = 0
    count: int = 1


WHOLE = Shard()


class Named(NamedTuple):
    """A photograph, and what the names of its outputs depend on."""

    folder: str
    relative: str
    """Its path in `folder`; also in the output folder, but for the ending."""
    alone: bool
    """Whether no other photograph would have an output of the same name, without extension."""

    def photo(self, endings: Sequence[str], taken: frozenset[str]) -> Photo:
        """Return it for the bookkeeping; `taken` as in `Photographs`."""
        names = functools.partial(_names, self, endings, taken)
        return Photo(pathlib.Path(self.folder, self.relative), names)


class Photographs(NamedTuple):
    """The photographs of a job."""

    named: list[Named]
    taken: frozenset[str]
    """Those in the output folder, from there, in lower case: no output may have their names."""

    def photos(self, writer: Writer) -> Iterator[Photo]:
        """Yield them for the bookkeeping."""
        return (each.photo(writer.endings, self.taken) for each in self.named)


class _Found(NamedTuple):
    folder: str
    relative: str


def photographs(
    inputs: Sequence[str | os.PathLike[str]],
    lists: Sequence[str | os.PathLike[str]],
    writer: Writer,
    shard: Shard = WHOLE,
) -> Photographs:
    """Find photographs; a line on stderr counts what else lies in the folders.

    Args:
      inputs: files, which need not be photographs, and folders of them, sub-folders included.
      lists: text files with a path a line, relative to the folder of the file, or "-": standard
        input, relative to the working directory. Whether files are there is seen when they are
        read: a million of them on a file system of a network would take minutes to look at.

    Raises PredictError if there are none, or a list cannot be read.
    """
    found, left_out = _collect(inputs, lists)
    if not found:
        raise PredictError(
            f"no images in {', '.join(io.printable(path) for path in (*inputs, *lists))};"
            f" {''.join(f'{line}; ' for line in left_out.values())}"
            f"known extensions: {' '.join(sorted(io.IMAGE_SUFFIXES))}"
        )
    for folder, line in left_out.items():
        print(f"{io.printable(folder)}: {line}", file=sys.stderr)
    alone = _alone([os.path.splitext(each.relative)[0] for each in found], writer.endings)
    own = slice(shard.index, None, shard.count)
    named = [Named(*each, bool(a)) for each, a in zip(found[own], alone[own], strict=True)]
    return Photographs(named, _in_folder(found, writer.output))


def _names(photo: Named, endings: Sequence[str], taken: frozenset[str]) -> Iterator[str]:
    """Yield what outputs may be called: without extension, with it, or with a number.

    Compared without case, as some file systems do, and never the name of an input.
    """
    numbered = (f"{photo.relative}-{number}" for number in itertools.count(2))
    stem = os.path.splitext(photo.relative)[0]
    options = itertools.chain([stem] if photo.alone else [], [photo.relative], numbered)
    return (
        name
        for name in options
        if not (taken and any((name + ending).casefold() in taken for ending in endings))
    )


def _alone(stems: list[str], endings: Sequence[str]) -> Bool[np.ndarray, "n"]:
    """Return for each stem whether none of its outputs would be one of another stem.

    Compared by hashes of 64 bits, which take a tenth of the memory of the names. Where two agree by
    chance, both photographs keep their extensions: no harm.
    """
    names = (hash((stem + ending).casefold()) for stem in stems for ending in endings)
    claims = np.fromiter(names, np.int64, len(stems) * len(endings))
    claimed, counts = np.unique(claims, return_counts=True)
    shared = np.isin(claims, claimed[counts > 1]).reshape(len(stems), len(endings))
    return np.logical_not(shared.any(axis=1))


def _in_folder(found: list[_Found], output: pathlib.Path) -> frozenset[str]:
    top = os.path.join(os.path.abspath(output), "").casefold()
    folders = {each.folder: os.path.join(os.path.abspath(each.folder), "") for each in found}
    paths = ((folders[each.folder] + each.relative).casefold() for each in found)
    return frozenset(path.removeprefix(top) for path in paths if path.startswith(top))


def _collect(
    inputs: Sequence[str | os.PathLike[str]], lists: Sequence[str | os.PathLike[str]]
) -> tuple[list[_Found], dict[str, str]]:
    """List each photograph once; by folder, say how many of its files are none."""
    found: list[_Found] = []
    left_out: dict[str, str] = {}
    earlier = _Earlier()
    seen: set[str] = set()

    def add(folder: str, relatives: Sequence[str] | Iterator[str]) -> None:
        top = os.path.join(os.path.abspath(folder), "")
        for relative in relatives:
            path = top + relative
            if path not in seen:
                seen.add(path)
                found.append(_Found(folder, relative))

    for start in map(pathlib.Path, inputs):
        if not start.is_dir():
            add(os.path.dirname(start), [start.name])
            continue
        earlier.look_above(start)
        listed = listing(start, io.IMAGE_SUFFIXES, skip=earlier)
        add(os.fspath(start), listed.paths)
        if listed.left_out:
            folder = os.fspath(start)
            left_out[folder] = describe(listed.left_out)
            if io.FILM_SUFFIXES & listed.left_out.keys():
                left_out[folder] += "; a film is predicted if it is named"
    for path in lists:
        for folder, relative in _read_list(path):
            add(folder, [relative])
    return found, left_out


def _read_list(path: str | os.PathLike[str]) -> Iterator[tuple[str, str]]:
    """Yield the folder and the path from there of each line that is not empty."""
    stdin = os.fspath(path) == "-"
    name = "standard input" if stdin else io.printable(path)
    base = "" if stdin else os.path.dirname(path)
    try:
        with contextlib.ExitStack() as stack:
            file: IO[bytes] = sys.stdin.buffer if stdin else stack.enter_context(open(path, "rb"))
            lines = ((number, line.rstrip(b"\r\n")) for number, line in enumerate(file, 1))
            first = True
            for number, line in lines:
                if number == 1:
                    line = line.removeprefix(b"\xef\xbb\xbf")  # how some editors begin UTF-8
                if b"\0" in line:
                    raise PredictError(
                        f"{name}: line {number} holds a zero byte; expected UTF-8, a path a line"
                    )
                if not line:
                    continue
                text = os.fsdecode(line)
                if first and _only_here(base, text):
                    raise PredictError(
                        f"{name}: {io.printable(text)} is not in the folder of the list, from which"
                        " its paths are read, but in the working directory: move the list there, or"
                        " give it as standard input (--list -)"
                    )
                first = False
                yield _split(base, text)
    except OSError as error:
        raise PredictError(f"{name} cannot be read: {error.strerror}") from None
    if first:
        raise PredictError(f"{name} holds no paths; expected text, a path a line")


def _only_here(base: str, path: str) -> bool:
    return not os.path.lexists(os.path.join(base, path)) and os.path.lexists(path)


def _split(base: str, path: str) -> tuple[str, str]:
    """Return a folder and the path from there, which leads upwards nowhere."""
    relative = os.path.normpath(path)
    if os.path.isabs(relative) or relative.split(os.sep, 1)[0] == os.pardir:
        whole = pathlib.Path(os.path.abspath(os.path.join(base, relative)))
        base, relative = whole.anchor, os.fspath(whole.relative_to(whole.anchor))
    return base, relative.replace(os.sep, "/")


class _Earlier:
    """Tells the outputs of earlier calls, in whatever folders they lie."""

    def __init__(self) -> None:
        self._outputs: set[str] = set()
        self._seen: set[str] = set()

    def look_above(self, folder: pathlib.Path) -> None:
        """Take in what was predicted into the folders that `folder` lies in."""
        for parent in folder.absolute().parents:
            self._look(os.fspath(parent))

    def __call__(self, parent: str, name: str) -> bool:
        """Return whether the file `name` of a folder is one; folders come before what they hold."""
        self._look(parent)
        folder = os.path.abspath(parent)
        return name == MANIFEST or not self._outputs.isdisjoint(
            (folder, os.path.join(folder, name))
        )

    def _look(self, folder: str) -> None:
        if folder not in self._seen:
            self._seen.add(folder)
            self._outputs.update(bookkeeping.outputs_in(folder))
